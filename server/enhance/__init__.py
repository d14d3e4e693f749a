"""Rewrites prompts with a language model behind a chat endpoint, and judges what it answers."""
