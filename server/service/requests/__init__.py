"""What a request body asks for: its parameters, its images, and what is kept of it in rows."""
