"""How good the videos of the demo weights are, and what each speed feature costs of it."""
