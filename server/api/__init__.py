"""The HTTP surface: a file per resource, the shapes they answer with, and what every route needs."""
