"""The published layout of Stable Audio 3: its settings, the names of its tensors, and how they are rewritten."""
