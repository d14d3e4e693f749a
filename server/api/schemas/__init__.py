"""The shapes of requests and responses in the OpenAPI document."""
