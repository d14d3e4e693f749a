"""Injects faults of every kind at every stage of a generation, against a real server with the demo weights."""
