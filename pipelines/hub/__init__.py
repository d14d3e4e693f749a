"""Where weights come from: the hub, its local cache, and folders. No tensors."""
