"""Frames → a video file: encoding, the video that it continues, and its sound."""
