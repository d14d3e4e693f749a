"""Memory and time of the 14B model on a GPU: `python -m benchmarks.gpu`."""
