"""Trains the demo weights. No server needs it, and it is not in the wheel."""
