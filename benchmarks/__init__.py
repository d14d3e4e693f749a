"""Repeatable measurements. Each prints a table, and one JSON line at the end."""
