"""What tests and benchmarks share: servers, browsers, databases, small models."""
