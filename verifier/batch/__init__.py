"""Many questions: files of properties, instances of a competition, and the processes that answer them."""
