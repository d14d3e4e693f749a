"""Measurements anyone can repeat: each prints a table, then one JSON line last."""
