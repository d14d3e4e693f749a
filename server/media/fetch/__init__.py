"""Fetches images by URLs that clients choose, from public addresses only."""
