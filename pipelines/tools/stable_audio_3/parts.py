"""The parts of the converted model, each with the tensors that go into it, from the headers of the published files."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderSAME, StableAudio3DiTModel, StableAudio3DurationEmbedder
from transformers import T5GemmaConfig, T5GemmaEncoderModel

from pipelines.core.errors import UnsupportedModelError
from pipelines.layers.stable_audio_3 import ChunkedAutoencoderSAME
from pipelines.loading.modules import build_empty
from pipelines.models.weight_files import read_json
from pipelines.tools.stable_audio_3 import names
from pipelines.tools.stable_audio_3.settings import PublishedSettings
from pipelines.tools.stable_audio_3.tensors import DTYPES, Move, SourceFile, write_tensors

WEIGHTS = "model.safetensors"
"""The name of the published files, that of the model and that of the text encoder."""

_DIFFUSERS_WEIGHTS = "diffusion_pytorch_model.safetensors"

_DIFFERENTIAL_ORDER = (0, 3, 1, 4, 2)
"""Of the groups query, key, value, second query, second key; diffusers has the queries first and the value last."""

_ROTARY_BASE = 10000.0
_MAX_FREQUENCY_ERROR = 4e-3
"""Relative; frequencies that were stored in bfloat16 have half of it."""


@dataclass(frozen=True, slots=True)
class ConvertedPart:
    """A part to write: its folder's name, the model without weights, the file to read, and what moves to which file."""

    name: str
    model: Any
    source: SourceFile
    moves: tuple[Move, ...]
    weights: str = _DIFFUSERS_WEIGHTS

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return sum(move.nbytes for move in self.moves)

    def write(self, folder: Path) -> None:
        """Write a new folder. Raises OSError, WeightFormatError, WeightsNotFoundError or UnsupportedModelError."""
        folder.mkdir()
        if isinstance(self.model, T5GemmaEncoderModel):
            self.model.config.save_pretrained(folder)
        else:
            self.model.save_config(folder)
        write_tensors(self.source, self.moves, folder / self.weights)


def model_parts(published: Path, settings: PublishedSettings) -> tuple[ConvertedPart, ...]:
    """Return the parts in a published folder's main file.

    Raises WeightsNotFoundError if it cannot be read; UnsupportedModelError that names the tensor if one is missing,
    unknown, or of another shape or dtype.
    """
    source = SourceFile.at(published / WEIGHTS)
    transformer = build_empty(StableAudio3DiTModel.from_config, settings.transformer)
    vae_class = ChunkedAutoencoderSAME if settings.is_chunked else AutoencoderSAME
    vae = build_empty(vae_class.from_config, settings.vae)
    # the settings do not say it
    features = source.stored(names.published_name(names.DURATION_EMBEDDER, "linear.weight") or "").shape[-1]
    duration_embedder = build_empty(
        StableAudio3DurationEmbedder.from_config, settings.duration_embedder | {"fourier_dim": features}
    )
    differential = {
        "self_attn.to_qkv.weight": bool(settings.transformer["use_differential_attention"]),
        ".attn.to_qkv.weight": bool(settings.vae["use_differential_attention"]),
    }
    reordered = [ending for ending, is_used in differential.items() if is_used]
    parts = (
        ConvertedPart("transformer", transformer, source, _moves(transformer, source, names.TRANSFORMER, reordered)),
        ConvertedPart("vae", vae, source, _moves(vae, source, names.vae_names(settings.levels), reordered)),
        ConvertedPart(
            "duration_embedder",
            duration_embedder,
            source,
            _moves(duration_embedder, source, names.DURATION_EMBEDDER),
        ),
    )
    in_vae = [name for name in source.headers if names.is_vae_frequencies(name)]
    moved = [move.source for part in parts for move in part.moves]
    source.check_used([*moved, *in_vae, names.TRANSFORMER_FREQUENCIES, names.NO_NUMBERS])
    if names.NO_NUMBERS in source.headers:
        source.check_shape(names.NO_NUMBERS, (1, 0, 1))
    _check_frequencies(source, [name for name in (names.TRANSFORMER_FREQUENCIES, *in_vae) if name in source.headers])
    return parts


def text_encoder_part(folder: Path, settings: PublishedSettings) -> ConvertedPart:
    """Return T5Gemma's encoder, from a folder with the whole model. Raises as `model_parts` does."""
    values = read_json(folder / "config.json")
    if values.get("model_type") != "t5gemma":
        raise UnsupportedModelError(f"{folder} has a {str(values.get('model_type'))[:100]}, not a t5gemma.")
    config = T5GemmaConfig.from_pretrained(folder, local_files_only=True)
    config.is_encoder_decoder = False
    width = settings.duration_embedder["output_dim"]
    if config.encoder.hidden_size != width:
        raise UnsupportedModelError(
            f"{folder} has a text encoder of {config.encoder.hidden_size} channels; the model needs {width}."
        )
    model = build_empty(T5GemmaEncoderModel._from_config, config)
    source = SourceFile.at(folder / WEIGHTS)
    # its activations are too large for float16, which the library would compute in if the weights were stored so
    moves = _moves(model, source, names.TEXT_ENCODER, dtype=torch.bfloat16)
    unused = [name for name in source.headers if name.startswith(names.TEXT_ENCODER_UNUSED)]
    source.check_used([*(move.source for move in moves), *unused])
    config.architectures = [T5GemmaEncoderModel.__name__]
    config.dtype = torch.bfloat16
    return ConvertedPart("text_encoder", model, source, moves, WEIGHTS)


def _moves(
    model: Any,
    source: SourceFile,
    table: Mapping[str, str],
    reordered: Collection[str] = (),
    dtype: torch.dtype | None = None,
) -> tuple[Move, ...]:
    """Return the moves to all tensors of a model, after a check of the file's headers."""
    moves = []
    for name, tensor in model.state_dict().items():
        shape = tuple(tensor.shape)
        if name in names.FREQUENCIES:
            # 16 bits of a frequency turn far positions by wrong angles
            moves.append(Move(name, "", shape, torch.float32, value=tensor))
            continue
        published = names.published_name(table, name)
        if published is None:
            raise UnsupportedModelError(
                f"{type(model).__name__} of diffusers {diffusers.__version__} has {name}, which is not in the table."
            )
        source.check_shape(published, shape)
        order = _DIFFERENTIAL_ORDER if any(name.endswith(ending) for ending in reordered) else ()
        moves.append(Move(name, published, shape, dtype or DTYPES[source.stored(published).dtype], order))
    return tuple(moves)


def _check_frequencies(source: SourceFile, stored: Iterable[str]) -> None:
    """Raise unless the rotary frequencies in a file are those that diffusers computes."""
    with source.opened() as file:
        for name in stored:
            frequencies = file.get_tensor(name).double()
            count = frequencies.numel()
            expected = _ROTARY_BASE ** -(torch.arange(count, dtype=torch.float64) / count)
            if not ((frequencies / expected - 1).abs() <= _MAX_FREQUENCY_ERROR).all():
                raise UnsupportedModelError(f"{source.path} has other frequencies in {name} than diffusers computes.")
