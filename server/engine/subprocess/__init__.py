"""An engine whose worker is a child process on this machine."""
