"""How answers are given that take long to make or to send: work for a waiting client, and stored files."""
