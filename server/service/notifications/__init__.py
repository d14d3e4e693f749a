"""How clients learn how generations go: server-sent events, responses that wait for the end, and webhooks."""
