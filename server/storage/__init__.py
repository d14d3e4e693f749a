"""Everything that survives a restart: the database, and the files of generations."""
