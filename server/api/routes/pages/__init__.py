"""The pages of the server itself: the Workbench and the API reference."""
