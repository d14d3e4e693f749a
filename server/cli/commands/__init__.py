"""The commands: one module each, which reads its options and calls the logic."""
