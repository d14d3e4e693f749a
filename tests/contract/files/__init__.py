"""What every storage of files promises."""
