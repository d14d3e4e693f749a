"""The checks of `paddock doctor`."""
