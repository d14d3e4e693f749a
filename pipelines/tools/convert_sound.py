"""Converts the published folder of a Stable Audio 3 model to the layout that diffusers' StableAudio3Pipeline loads.

python -m pipelines.tools.convert_sound PUBLISHED_FOLDER OUTPUT_FOLDER [--text-encoder FOLDER]

PUBLISHED_FOLDER has model_config.json, model.safetensors and the folder of the text encoder, T5Gemma, that the settings
name; --text-encoder gives another. Every tensor must be known and have the shape that the settings imply, or nothing is
written. Weights take 16 bits: float16, or bfloat16 where they are published so, and for the text encoder. Rotary and
Fourier frequencies take 32 bits. One tensor is in memory at a time. The exit code is 1 after an error.

diffusers 0.42's AutoencoderSAME cannot be the autoencoder of the small models, SAME-S. Theirs is written for
`ChunkedAutoencoderSAME` of pipelines.layers.stable_audio_3, which the pipeline has to be given as its `vae`. That
module's `ReferenceTransformer` and `ReferenceDurationEmbedder` read every model's folders as its authors' program does.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import diffusers
from diffusers import FlowMatchEulerDiscreteScheduler

from pipelines.core.errors import PipelineError, UnsupportedModelError, WeightFormatError, WeightsNotFoundError
from pipelines.core.files import atomic_path, sync
from pipelines.loading.load import silence_progress_bars
from pipelines.models.model_index import NAME as MODEL_INDEX
from pipelines.models.weight_files import read_json
from pipelines.planning.layout import GIB
from pipelines.tools.stable_audio_3.parts import model_parts, text_encoder_part
from pipelines.tools.stable_audio_3.settings import PublishedSettings, read_settings

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "special_tokens_map.json")
"""Copied as they are, where they are there. The first must be."""

_COMPONENTS = {
    "duration_embedder": ["diffusers", "StableAudio3DurationEmbedder"],
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "T5GemmaEncoderModel"],
    "tokenizer": ["transformers", "GemmaTokenizerFast"],
    "transformer": ["diffusers", "StableAudio3DiTModel"],
    # also that of SAME-S, whose class is a subclass of it: libraries accept only their own in this file
    "vae": ["diffusers", "AutoencoderSAME"],
}


def convert(published: Path, output: Path, text_encoder: Path | None = None) -> None:
    """Write the folder `output`, which must not be there yet; it appears only when it is complete.

    `text_encoder` is a folder with T5Gemma and its tokenizer, in place of the one in `published`. Raises
    WeightsNotFoundError for a missing or damaged file, UnsupportedModelError for a setting or a tensor that cannot be
    converted, WeightFormatError if the folder cannot be written.
    """
    settings = read_settings(published)
    if text_encoder is None and settings.text_encoder is None:
        raise UnsupportedModelError(f"{published} has no text encoder of its own. Say where one is: --text-encoder.")
    encoder_folder = text_encoder or published / str(settings.text_encoder)
    parts = (*model_parts(published, settings), text_encoder_part(encoder_folder, settings))
    if not (encoder_folder / TOKENIZER_FILES[0]).is_file():
        raise WeightsNotFoundError(f"The model is incomplete: {encoder_folder / TOKENIZER_FILES[0]} is missing.")
    if output.exists():
        raise WeightFormatError(f"{output} is there already.")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        needed, free = sum(part.nbytes for part in parts), shutil.disk_usage(output.parent).free
        if needed > free:
            raise WeightFormatError(
                f"The converted model needs {needed / GIB:.1f} GiB in {output.parent}; {free / GIB:.1f} GiB is free."
            )
        with atomic_path(output) as folder:
            folder.mkdir()
            for part in parts:
                part.write(folder / part.name)
            _write_tokenizer(encoder_folder, folder / "tokenizer", settings.max_tokens)
            _write_index(folder, settings)
            for licence in published.glob("LICENSE*"):
                shutil.copyfile(licence, folder / licence.name)
            for path in folder.rglob("*"):
                sync(path)
    except OSError as error:
        raise WeightFormatError(f"{output} cannot be written: {error}.") from error


def _write_tokenizer(source: Path, folder: Path, max_tokens: int) -> None:
    folder.mkdir()
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    options = source / "tokenizer_config.json"
    values = read_json(options) if options.exists() else {}
    # the pipeline cuts prompts there
    _write_json(folder / "tokenizer_config.json", values | {"model_max_length": max_tokens})


def _write_index(folder: Path, settings: PublishedSettings) -> None:
    # times are noise levels from 0 to 1, as the transformer takes them
    scheduler = FlowMatchEulerDiscreteScheduler(
        num_train_timesteps=1, shift=1.0, stochastic_sampling=settings.is_distilled
    )
    scheduler.save_pretrained(folder / "scheduler")
    values = {"_class_name": "StableAudio3Pipeline", "_diffusers_version": diffusers.__version__, **_COMPONENTS}
    _write_json(folder / MODEL_INDEX, values)


def _write_json(path: Path, values: dict[str, object]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main(arguments: Sequence[str]) -> str | None:
    """Convert a folder. Return the message of an error, or None."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.tools.convert_sound", description=__doc__.split("\n", 1)[0]
    )
    parser.add_argument("published", type=Path, metavar="PUBLISHED_FOLDER")
    parser.add_argument("output", type=Path, metavar="OUTPUT_FOLDER")
    parser.add_argument("--text-encoder", type=Path, metavar="FOLDER", help="T5Gemma with its tokenizer")
    options = parser.parse_args(arguments)
    silence_progress_bars()
    try:
        convert(options.published, options.output, options.text_encoder)
    except PipelineError as error:
        return str(error)
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
