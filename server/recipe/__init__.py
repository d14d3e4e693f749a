"""The recipe in the file of a video: everything to make it again, as canonical JSON in the tag `comment`."""
