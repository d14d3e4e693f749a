"""Builds the application, checks the machine, and runs the HTTP server."""
