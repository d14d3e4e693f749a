"""Reads a LoRA file: the changes that it makes to the parameters of one part, by their names in diffusers.

The file is not trusted. Its header is checked before anything else is read, and every error names the file.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from pipelines.core.errors import UnsupportedModelError, WeightsNotFoundError
from pipelines.loading.lora.adapter_metadata import AdapterMetadata, read_adapter_metadata
from pipelines.loading.lora.change import Addition, Change, LowRank
from pipelines.loading.lora.keys import Key, Piece, listed, read_keys
from pipelines.models.family import LoraLayout, ModelFamily
from pipelines.models.safetensors_header import FLOATS, StoredTensor, read_header

MAX_TENSORS = 20_000
"""Limit of a file's tensors; a LoRA on all layers of two experts of 14B has about 5000."""

log = logging.getLogger("paddock.load")

Changes = Mapping[str, Sequence[Change]]
"""The changes of a file by the names of the parameters."""


def read_changes(path: Path, family: ModelFamily, part: str) -> Changes:
    """Return the changes of a LoRA file to a part; of a file for several parts, those to this one.

    Tensors are memory-mapped: their values are read when used. Raises UnsupportedModelError that names the file.
    """
    layout = family.part(part).lora
    if layout is None:
        raise UnsupportedModelError(f"{path} is for {part}, which takes no LoRAs.")
    header = _read_header(path)
    left_aside = [name for name in header if name.startswith(layout.left_aside)]
    if left_aside:
        log.warning("%s: %d tensors for a text encoder are left aside: %s", path, len(left_aside), listed(left_aside))
    parts = [each.name for each in family.parts if each.takes_loras]
    keys = read_keys(path, header.keys() - set(left_aside), layout, parts)
    _check_dtypes(path, header, keys)
    named = {key.part for key in keys if key.part is not None}
    if len(named) > 1:
        keys = _for_part(path, keys, part)
    if not keys:
        raise UnsupportedModelError(f"{path} changes nothing: it has no tensors for {part}.")
    # a file for one part may be used for another
    preferred = [*(named if len(named) == 1 else ()), part, *parts]
    layers = _by_layer(path, keys)
    try:
        with safe_open(path, "pt") as file:
            metadata = read_adapter_metadata(path, file.metadata() or {}, preferred)
            return _changes(path, file, layers, layout, metadata)
    except (OSError, ValueError, SafetensorError) as error:
        raise UnsupportedModelError(f"{path} is truncated, damaged or in another format: {error}.") from error


def _read_header(path: Path) -> dict[str, StoredTensor]:
    try:
        header = read_header(path)
    except WeightsNotFoundError as error:
        raise UnsupportedModelError(f"{path} is not a readable LoRA file: {error}") from error
    if len(header) > MAX_TENSORS:
        raise UnsupportedModelError(f"{path} has {len(header)} tensors; the limit of a LoRA file is {MAX_TENSORS}.")
    return header


def _for_part(path: Path, keys: Sequence[Key], part: str) -> list[Key]:
    """Return the keys for one part of a file for several."""
    if unclear := [key.name for key in keys if key.part is None]:
        raise UnsupportedModelError(f"{path} is for several parts, but does not say for which {listed(unclear)} is.")
    return [key for key in keys if key.part == part]


def _check_dtypes(path: Path, header: Mapping[str, StoredTensor], keys: Sequence[Key]) -> None:
    for key in keys:
        stored = header[key.name]
        if key.piece is Piece.ALPHA:
            if stored.numel != 1:
                raise UnsupportedModelError(f"{path} has {key.name} with {stored.numel} values, which has to be one.")
        # musubi-tuner's converter stores alphas as whole numbers
        elif stored.dtype not in FLOATS:
            raise UnsupportedModelError(f"{path} has {key.name} as {stored.dtype}, which is not supported.")


def _by_layer(path: Path, keys: Sequence[Key]) -> dict[str, dict[Piece, Key]]:
    """Return the keys by layer and piece. Raises UnsupportedModelError for two of the same, or a part of a change."""
    layers: dict[str, dict[Piece, Key]] = {}
    for key in keys:
        pieces = layers.setdefault(key.layer, {})
        if key.piece in pieces:
            raise UnsupportedModelError(
                f"{path} changes {key.layer} twice: by {pieces[key.piece].name} and {key.name}."
            )
        pieces[key.piece] = key
    for pieces in layers.values():
        needed = {Piece.DOWN, Piece.UP}
        if pieces.keys() & {*needed, Piece.UP_BIAS, Piece.ALPHA} and not needed <= pieces.keys():
            has = next(iter(pieces.values())).name
            lacking = " and ".join(sorted(needed - pieces.keys()))
            raise UnsupportedModelError(f"{path} has {has}, but not the {lacking} of that layer.")
    return layers


def _changes(
    path: Path,
    file: Any,
    layers: Mapping[str, Mapping[Piece, Key]],
    layout: LoraLayout,
    metadata: AdapterMetadata,
) -> Changes:
    changes: dict[str, list[Change]] = {}
    for layer, pieces in layers.items():
        tensors: dict[Piece, torch.Tensor] = {piece: file.get_tensor(key.name) for piece, key in pieces.items()}
        weight, bias = layout.weight(layer), f"{layer}.bias"
        if Piece.DOWN in pieces:
            scale = _scale(path, layer, pieces, tensors, metadata)
            up_key = pieces[Piece.UP].name
            change = LowRank(up_key, tensors[Piece.DOWN], tensors[Piece.UP], scale)
            changes.setdefault(weight, []).append(change)
            if Piece.UP_BIAS in pieces:
                # PEFT scales the bias of its second factor as it does the product
                addition = Addition(pieces[Piece.UP_BIAS].name, tensors[Piece.UP_BIAS], scale)
                changes.setdefault(bias, []).append(addition)
        for piece, parameter in ((Piece.WEIGHT, weight), (Piece.BIAS, bias), (Piece.MODULATION, weight)):
            if piece in pieces:
                changes.setdefault(parameter, []).append(Addition(pieces[piece].name, tensors[piece]))
    return changes


def _scale(
    path: Path,
    layer: str,
    pieces: Mapping[Piece, Key],
    tensors: Mapping[Piece, torch.Tensor],
    metadata: AdapterMetadata,
) -> float:
    """Return what the product of a layer's factors is multiplied by: alpha divided by the rank."""
    # an empty factor is refused where the sizes are checked
    rank = max(1, tensors[Piece.DOWN].shape[0]) if tensors[Piece.DOWN].ndim else 1
    if Piece.ALPHA not in pieces:
        return metadata.scale(layer, rank)
    alpha = float(tensors[Piece.ALPHA])
    if not 0 < abs(alpha) < 1e6:
        raise UnsupportedModelError(f"{path} has {pieces[Piece.ALPHA].name} = {alpha}, which is not an alpha.")
    return alpha / rank
