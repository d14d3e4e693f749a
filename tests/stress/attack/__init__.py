"""Attacks on a real server that is held to little memory, and what a client with another key notices of them."""
