"""The API of OpenAI for videos and models at /v1, translated into this server's own requests and rows."""
