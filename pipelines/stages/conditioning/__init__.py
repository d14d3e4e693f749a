"""Conditioning: a prompt, images and a video → what the transformer is conditioned on."""
