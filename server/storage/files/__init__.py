"""The files of generations: videos, checkpoints, previews; where they are kept, and the disk under them."""
