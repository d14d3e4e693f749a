"""Tests of the project itself: structure, documents, pinned versions."""
