"""What settings and kernels for processors save."""
