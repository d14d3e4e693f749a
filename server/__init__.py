"""The HTTP side of Paddock: routes, a durable queue, and the processes that hold the models. No tensors here."""

__version__ = "0.2.0"
