"""Chooses how a model fits into a machine: memory, speed, tiles, devices. Arithmetic only, no tensors."""
