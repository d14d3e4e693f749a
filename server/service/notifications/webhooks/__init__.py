"""Webhooks: which URLs are allowed, how events are signed and sent, and the loop that delivers them."""
