"""Compares Paddock with other servers that serve the same pipeline."""
