"""Makes the stills of finished videos: at once if that is quick, otherwise when the server has time."""
