"""What a notebook passes to `Runner.load`: a model's id instead of its specification, and a device that is there."""

import os
from pathlib import Path

import torch

from pipelines.core.errors import CatalogueError, DeviceError
from pipelines.core.home import expanded
from pipelines.core.model import ModelSpec
from pipelines.hub import local as weights
from pipelines.models.catalogue import read_catalogue

AnyPath = str | os.PathLike[str]


def model_and_folder(model: ModelSpec | str, folder: AnyPath | None) -> tuple[ModelSpec, Path]:
    """Return a model's specification and the folder of its weights.

    `model` is a specification or the id of a model in the catalogue, of which the variant without `run_fast` is taken.
    Without `folder` the weights are those of the model's `repo` on this machine. Raises CatalogueError for an unknown
    id, WeightsNotFoundError.
    """
    if isinstance(model, str):
        catalogue = read_catalogue()
        if model not in catalogue:
            raise CatalogueError(f"There is no model {model[:200]!r}. The catalogue has {', '.join(catalogue)}.")
        model = catalogue[model].model.variant(fast=False)
    return model, weights.locate(model) if folder is None else expanded(folder, "folder")


def checked_device(name: str | None) -> str:
    """Return a device that torch has; None stands for the best one. Raises DeviceError."""
    if name is None:
        return best_device()
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise DeviceError(f"There is no device {str(name)[:50]!r}: use cpu, cuda:0, cuda:1 and so on.") from error
    # torch keeps 8 bits of the index: that of cuda:999 is negative
    if device.type == "cuda" and not 0 <= (device.index or 0) < torch.cuda.device_count():
        raise DeviceError(f"There is no device {name}: this machine has {torch.cuda.device_count()} CUDA devices.")
    return name


def best_device() -> str:
    """Return the name of the first GPU, else that of the CPU, for torch."""
    return "cuda:0" if torch.cuda.is_available() else "cpu"
