"""Tests of the project itself: documents, pins, contracts."""
