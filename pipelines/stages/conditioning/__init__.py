"""Conditioning: a prompt → what the transformer is conditioned on."""
