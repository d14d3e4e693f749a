"""The schema of the records, from the first release on: a revision each time it changed, and what applies them."""
