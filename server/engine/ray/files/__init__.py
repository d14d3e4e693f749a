"""The files of a worker on another host: in which folders they are, and how they come and go."""
