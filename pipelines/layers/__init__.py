"""Replacements of single layers of a model."""
