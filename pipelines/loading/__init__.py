"""From weight files to a pipeline laid out on a device."""
