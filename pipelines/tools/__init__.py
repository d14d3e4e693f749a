"""Command-line programs for developers that work on a model."""
