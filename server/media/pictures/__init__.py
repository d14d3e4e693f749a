"""Small pictures of what is kept: the stills of a video, and the copy of an image that a language model sees."""
