"""Text-to-video with Wan on one device: plan, load, encode the prompt, denoise, decode, write the video.

Nothing here knows of HTTP or jobs: import `pipelines.runner.runner` in a notebook and it works the same. This module
imports nothing, so that the folders without tensors (`core`, `planning`, `hub`) load in no time.
"""
