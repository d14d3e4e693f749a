"""Models that make sounds from text."""
