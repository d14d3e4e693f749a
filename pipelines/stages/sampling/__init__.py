"""Sampling: the solver that denoises, and the noise levels of its steps."""
