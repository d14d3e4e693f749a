"""Programs run by hand on a model."""
