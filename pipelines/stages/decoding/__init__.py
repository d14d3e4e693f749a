"""From latents to frames, whole or in tiles."""
