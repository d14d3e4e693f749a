"""Takes generations from the queue and gives them to devices."""
