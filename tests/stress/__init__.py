"""Faults, load and hostile input for long runs, started by hand."""
