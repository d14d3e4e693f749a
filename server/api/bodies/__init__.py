"""The bodies of requests: JSON and multipart, within limits of size and number, with the inputs that they bring."""
