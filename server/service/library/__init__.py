"""A tenant's history as a library: pages and cursors, favourites and tags, and what is done with many at once."""
