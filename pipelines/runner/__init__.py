"""Runs generations with a loaded model, one at a time."""
