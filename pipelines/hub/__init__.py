"""Finds and downloads weights: from a hub, its local cache or a folder. No tensors."""
