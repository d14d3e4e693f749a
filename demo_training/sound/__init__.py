"""Trains the demo's text-to-sound model: sounds drawn by code, their captions, an autoencoder and a transformer."""
