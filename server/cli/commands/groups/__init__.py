"""Commands of two words, such as `paddock key add`."""
