"""The SQL statements of the store, by topic."""
