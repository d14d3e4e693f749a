"""Claims of what waits, the beginning of the queue that they read, and its limits."""
