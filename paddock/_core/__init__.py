"""The client's logic without I/O, shared by the synchronous and the asynchronous client."""
