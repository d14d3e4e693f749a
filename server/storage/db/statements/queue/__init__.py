"""Claims of what waits, and the beginning of the queue that they read."""
