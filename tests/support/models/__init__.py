"""Small models of each layout, with random weights."""
