"""Pictures of a generation while it is denoised."""
