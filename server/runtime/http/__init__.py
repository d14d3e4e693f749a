"""The HTTP server beneath the application: sockets, connections, and what reverse proxies tell."""
