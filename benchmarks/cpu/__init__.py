"""Benchmarks of settings and kernels for CPUs."""
