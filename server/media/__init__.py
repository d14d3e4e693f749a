"""Reads images and large bodies of requests, in child processes with limits of time and memory."""
