"""The HTTP API: routes, schemas, authentication, middleware and error handlers."""
