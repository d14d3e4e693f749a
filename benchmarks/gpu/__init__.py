"""What the 14B model takes on a GPU: `python -m benchmarks.gpu`."""
