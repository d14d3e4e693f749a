"""Small weights that run on any CPU, for trying the server without a GPU."""

from pipelines.demo.random_weights import demo_folder

__all__ = ["demo_folder"]
