"""Carries generations to a device, over a typed protocol."""
