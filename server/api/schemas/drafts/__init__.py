"""Schemas of what is asked before a generation: another prompt, an estimate."""
