"""Wan's transformer with an fp32 residual stream, and with activations that are computed for some tokens at a time."""
