"""Tests of the samplers and their noise levels."""
