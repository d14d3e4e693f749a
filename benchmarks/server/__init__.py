"""Cost of the server: idle, under load, and between two videos."""
