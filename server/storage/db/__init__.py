"""The database: schema, connections, statements, API keys."""
