"""Conditioning: a prompt and images → what the transformer is conditioned on."""
