"""What carries a generation to a device: the messages, the worker that speaks them, the ways to reach a worker."""
