"""What the server costs: alone, under load, and between two videos."""
