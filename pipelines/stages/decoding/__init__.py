"""Decodes latents to frames, whole or in tiles."""
