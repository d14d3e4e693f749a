"""Still pictures of a finished video: its thumbnail and its spritesheet."""
