"""What `paddock generate` does: videos of a request, and videos that are made again from a file."""
