"""Prompts that a language model rewrites: those of generations before they are claimed, and those of the own route."""
