"""Files by generation: videos, checkpoints, previews."""
