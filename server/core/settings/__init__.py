"""All settings of the server: their sections, and the file, environment and options they come from."""
