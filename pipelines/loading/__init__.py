"""Loading: weight files → a pipeline whose parts are in their places on a device."""
