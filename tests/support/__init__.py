"""Shared by tests and benchmarks: servers, browsers, databases, small models."""
