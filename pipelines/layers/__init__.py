"""Replacements for single layers of a model: quantized, or faster on a CPU."""
