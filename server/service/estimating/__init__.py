"""What a request would take, before it is sent."""
