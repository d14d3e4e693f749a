"""SQL by topic."""
