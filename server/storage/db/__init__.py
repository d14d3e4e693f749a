"""The database: its schema, its statements, its API keys."""
