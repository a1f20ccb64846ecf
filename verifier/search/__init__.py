"""Branch and bound over batches of subdomains."""
