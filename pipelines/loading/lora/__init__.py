"""LoRA files: what they change, and how the changes are merged into a model's weights."""
