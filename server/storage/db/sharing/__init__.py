"""What several servers on one PostgreSQL database need: news of each other's changes, and locks between them."""
