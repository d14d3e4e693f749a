"""Text-to-video with Wan on one device: plan, load, prompt, generate, decode, encode.

Nothing here knows of HTTP or jobs: import `pipelines.runner` in a notebook and it works the same. This
module stays empty so that the torch-free parts (`spec`, `catalogue`, `geometry`, `weights`) import in no time.
"""
