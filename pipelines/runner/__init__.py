"""Carries out one request after another with a loaded model."""
