"""How much memory a model needs, and the layout that fits a machine. No tensors."""
