"""Tests of conditioning."""
