"""The worker process: the only part of the server that uses tensors."""
