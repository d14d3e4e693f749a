"""Reads images and large bodies of requests, in child processes with limits, and fetches images by their URLs."""
