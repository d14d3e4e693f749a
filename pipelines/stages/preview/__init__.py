"""Draws previews of a generation while it denoises."""
