"""The revisions of the database schema since the first release, and their application."""
