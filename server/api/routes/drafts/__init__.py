"""Routes about what may be asked for next: nothing that they do is recorded."""
