"""Sounds that a model makes from text."""
