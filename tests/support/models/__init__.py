"""Small models of each layout, made by the tests."""
