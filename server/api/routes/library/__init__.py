"""The history as a library: pages and filters, marks, and what is done with many generations at once."""
