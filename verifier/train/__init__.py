"""Training networks that can be proved robust: losses, schedules, the loop, and what it evaluates in the end."""
