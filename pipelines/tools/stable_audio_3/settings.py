"""What a published `model_config.json` says, as the configurations of diffusers' classes.

A key that is absent has the default of the reference's constructors (github.com/Stability-AI/stable-audio-3, commit
636f906, `factory.py` and `models/`). A setting that diffusers' classes cannot follow is refused: the names and shapes
of the tensors would not show it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from pipelines.core.errors import UnsupportedModelError
from pipelines.layers.stable_audio_3 import NORM_EPSILON
from pipelines.models.weight_files import read_json

NAME = "model_config.json"

MAX_TOKENS = 256
"""Limit of a prompt in diffusers' pipeline."""

_MIN_ROTARY_HEAD = 64
"""The reference turns at least 32 numbers of each head, diffusers always half of them."""

_IS_DISTILLED = {"rf_denoiser": True, "rectified_flow": False}
"""Whether the objective is that of a distilled model, whose sampler adds new noise at every step."""

_DIFFUSION: dict[str, tuple[Any, Any]] = {
    "input_concat_ids": ([], []),
    "prepend_cond_ids": ([], []),
    "modular_local_cond_configs": ([], []),
    "cross_attention_cond_ids": ([], ["prompt", "seconds_total"]),
    "global_cond_ids": ([], ["seconds_total"]),
    "local_add_cond_ids": ([], ["inpaint_mask", "inpaint_masked_input"]),
    # null is the schedule that diffusers' pipeline has
    "sampling_distribution_shift_options": (None, None),
}
_TRANSFORMER = {
    "patch_size": (1, 1),
    "project_cond_tokens": (True, True),
    "project_global_cond": (True, True),
    "input_concat_dim": (0, 0),
    "prepend_cond_dim": (0, 0),
    "transformer_type": ("continuous_transformer", "continuous_transformer"),
    "global_cond_type": ("prepend", "adaLN"),
    "timestep_cond_type": ("global", "global"),
    "timestep_features_type": ("learned", "expo"),
    "timestep_features_logsnr": (False, False),
    "modular_local_cond_configs": (None, None),
    "final_cross_attn_ix": (-1, -1),
    "causal": (False, False),
    "rotary_pos_emb": (True, True),
    "cross_attn_rotary_pos_emb": (False, False),
    "conformer": (False, False),
    "use_sinusoidal_emb": (False, False),
    "use_abs_pos_emb": (False, False),
    "sliding_window": (None, None),
    "add_rope": (False, False),
    "layer_scale": (False, False),
    "norm_type": ("layer_norm", "rms_norm"),
}
_ATTENTION = {"qk_norm": ("none", "rms"), "qk_norm_eps": (1e-6, 1e-6), "feat_scale": (False, False)}
_NORM = {"eps": (NORM_EPSILON, NORM_EPSILON)}
_FEED_FORWARD = {
    "no_bias": (False, False),
    "glu": (True, True),
    "use_conv": (False, False),
    "sinusoidal": (False, False),
}
_RESAMPLING = {
    "conformer": (False, False),
    "layer_scale": (False, False),
    "variable_stride": (False, True),
    "feat_scale": (False, False),
    "mapping_bias": (True, True),
    "cross_attn": (False, False),
    "dyt": (True, True),
}
_PATCHES = {"oversampling": (1, 1), "postfilter_channels": (0, 0)}
_BOTTLENECK = {"noise_augment_dim": (0, 0), "auto_scale": (False, True)}
_PROMPT = {"padding_mode": ("zero", "learned"), "project_out": (False, False)}
_SECONDS = {"fourier_features_type": ("learned", "expo")}

_SHARED = {
    "channels": None,
    "latent_dim": None,
    "c_mults": None,
    "strides": None,
    "transformer_depths": None,
    "differential": True,
    "dim_heads": 128,
    "ff_mult": 3,
    "sliding_window": None,
    "chunk_size": 128,
    "chunk_midpoint_shift": False,
}
"""Settings that diffusers keeps once for encoder and decoder, with their defaults."""


@dataclass(frozen=True, slots=True)
class PublishedSettings:
    """The configurations of diffusers' classes, without the one number that only a tensor has.

    `duration_embedder` lacks `fourier_dim`. `is_chunked` says whether the autoencoder is one that only
    `ChunkedAutoencoderSAME` builds. `max_tokens` are those of a prompt; `text_encoder` is the folder of the text
    encoder inside of the published one, None if it has none.
    """

    transformer: dict[str, Any]
    vae: dict[str, Any]
    duration_embedder: dict[str, Any]
    is_chunked: bool
    is_distilled: bool
    max_tokens: int
    text_encoder: str | None

    @property
    def levels(self) -> int:
        """The number of resampling blocks on either side of the autoencoder."""
        return len(self.vae["encoder_strides"])


def read_settings(folder: Path) -> PublishedSettings:
    """Return the settings of a published folder.

    Raises WeightsNotFoundError if it has no readable `model_config.json`, UnsupportedModelError that names the key if a
    setting is missing or cannot be followed.
    """
    path = folder / NAME
    root = _Section(path, "", read_json(path))
    model = root.section("model")
    vae, is_chunked = _vae(model.section("pretransform"), root.number("sample_rate"))
    diffusion = model.section("diffusion")
    diffusion.expect(_DIFFUSION)
    objective = diffusion.get("diffusion_objective", "v")
    if objective not in _IS_DISTILLED:
        raise diffusion.refused("diffusion_objective", objective, " or ".join(map(repr, _IS_DISTILLED)))
    conditioning = model.section("conditioning")
    width = conditioning.number("cond_dim")
    prompt, seconds = _conditioners(conditioning)
    transformer = _transformer(diffusion.section("config"), vae["latent_dim"], width)
    return PublishedSettings(
        transformer=transformer,
        vae=vae,
        duration_embedder={
            "output_dim": width,
            "min_val": float(seconds.get("min_val", 0)),
            "max_val": float(seconds.get("max_val", 1)),
        },
        is_chunked=is_chunked,
        is_distilled=_IS_DISTILLED[objective],
        max_tokens=_max_tokens(prompt),
        text_encoder=_subfolder(prompt),
    )


@dataclass(frozen=True, slots=True)
class _Section:
    """An object in the file, and the dotted path to it for messages."""

    path: Path
    name: str
    values: Mapping[str, Any]

    def get(self, key: str, default: Any) -> Any:
        return self.values.get(key, default)

    def section(self, key: str, default: Mapping[str, Any] | None = None) -> "_Section":
        found = self.values.get(key, default)
        if not isinstance(found, dict):
            raise self.refused(key, found, "an object")
        return _Section(self.path, self._dotted(key), found)

    def number(self, key: str, default: int | None = None) -> int:
        found = self.values.get(key, default)
        if type(found) is not int or found < 0:
            raise self.refused(key, found, "a whole number")
        return found

    def numbers(self, key: str, default: Sequence[int] | None = None) -> list[int]:
        found = self.values.get(key, default)
        if not isinstance(found, Sequence) or not found or any(type(each) is not int or each < 0 for each in found):
            raise self.refused(key, found, "a list of whole numbers")
        return list(found)

    def expect(self, fixed: Mapping[str, tuple[Any, Any]]) -> None:
        """Refuse the first setting that is not the one that can be converted. `fixed` has (default, needed)."""
        for key, (default, needed) in fixed.items():
            found = self.values.get(key, default)
            if found != needed and (found or needed):
                raise self.refused(key, found, repr(needed))

    def refused(self, key: str, found: Any, needed: str) -> UnsupportedModelError:
        return UnsupportedModelError(
            f"{self.path} has {self._dotted(key)} = {str(found)[:100]}; it can be converted only if it is {needed}."
        )

    def _dotted(self, key: str) -> str:
        return f"{self.name}.{key}" if self.name else key


def _transformer(config: _Section, latent_dim: int, width: int) -> dict[str, Any]:
    config.expect(_TRANSFORMER)
    config.expect(dict.fromkeys(("cond_token_dim", "global_cond_dim"), (0, width)))
    config.expect({"io_channels": (32, latent_dim)})
    attention = config.section("attn_kwargs", {})
    attention.expect(_ATTENTION)
    feed_forward = config.section("ff_kwargs", {})
    feed_forward.expect(_FEED_FORWARD)
    config.section("norm_kwargs", {}).expect(_NORM)
    embed_dim, heads = config.number("embed_dim", 768), config.number("num_heads", 8)
    if heads < 1 or embed_dim % heads or embed_dim // heads < _MIN_ROTARY_HEAD:
        raise config.refused("num_heads", heads, f"a divisor that leaves each head {_MIN_ROTARY_HEAD} or more")
    return {
        "io_channels": latent_dim,
        "patch_size": 1,
        "embed_dim": embed_dim,
        "depth": config.number("depth", 12),
        "num_heads": heads,
        "cond_token_dim": width,
        "global_cond_dim": width,
        "local_add_cond_dim": config.number("local_add_cond_dim"),
        "timestep_features_dim": config.number("timestep_features_dim", 256),
        "ff_mult": feed_forward.get("mult", 4),
        "num_memory_tokens": config.number("num_memory_tokens", 0),
        "use_differential_attention": bool(attention.get("differential", False)),
    }


def _vae(pretransform: _Section, sample_rate: int) -> tuple[dict[str, Any], bool]:
    """Return the autoencoder's configuration, and whether diffusers' own class is not enough for it."""
    pretransform.expect({"scale": (1.0, 1.0)})
    config = pretransform.section("config")
    patches = config.section("pretransform").section("config")
    patches.expect(_PATCHES)
    channels, patch_size = patches.number("channels"), patches.number("patch_size")
    encoder, decoder = config.section("encoder").section("config"), config.section("decoder").section("config")
    config.section("decoder").expect({"soft_clip": (False, False)})
    encoder.expect(_RESAMPLING | {"in_channels": (2, channels * patch_size)})
    decoder.expect(_RESAMPLING | {"out_channels": (2, channels * patch_size)})
    for key, default in _SHARED.items():
        decoder.expect({key: (default, encoder.get(key, default))})
    strides, latent_dim = encoder.numbers("strides"), encoder.number("latent_dim")
    config.expect(
        {
            "latent_dim": (None, latent_dim),
            "io_channels": (None, channels),
            "downsampling_ratio": (None, patch_size * prod(strides)),
        }
    )
    bottleneck = config.section("bottleneck").section("config")
    bottleneck.expect(_BOTTLENECK | {"dim": (32, latent_dim)})
    vae = {
        "audio_channels": channels,
        "patch_size": patch_size,
        "encoder_channels": encoder.number("channels"),
        "encoder_c_mults": encoder.numbers("c_mults"),
        "encoder_strides": strides,
        "encoder_transformer_depths": encoder.numbers("transformer_depths"),
        "latent_dim": latent_dim,
        "use_differential_attention": bool(encoder.get("differential", True)),
        "dim_heads": encoder.number("dim_heads", 128),
        "ff_mult": encoder.get("ff_mult", 3),
        "encoder_sinusoidal_blocks": _per_level(encoder, len(strides)),
        "decoder_sinusoidal_blocks": _per_level(decoder, len(strides)),
        "sampling_rate": sample_rate,
    }
    attention = _attention(encoder, decoder, strides)
    return vae | attention, "chunk_size" in attention


def _per_level(side: _Section, levels: int) -> list[int]:
    found = side.get("sinusoidal_blocks", 0)
    return [found] * levels if type(found) is int else side.numbers("sinusoidal_blocks")[:levels]


def _attention(encoder: _Section, decoder: _Section, strides: Sequence[int]) -> dict[str, Any]:
    """Return the settings of the sliding window, or of the chunks where there is none."""
    widths = {
        f"{name}_mapping_width": 3 if side.get("conv_mapping", False) else 1
        for name, side in (("encoder", encoder), ("decoder", decoder))
    }
    window = encoder.get("sliding_window", None)
    if window is not None:
        sides = encoder.numbers("sliding_window")
        if len(set(sides)) != 1:
            raise encoder.refused("sliding_window", window, "as wide on both sides")
        for side in (encoder, decoder):
            side.expect({"conv_mapping": (False, False)})
        return {"sliding_window": sides[0]}
    chunk_size, shifted = encoder.number("chunk_size", 128), bool(encoder.get("chunk_midpoint_shift", False))
    if chunk_size < 1 or any(chunk_size % (stride * (2 if shifted else 1)) for stride in strides):
        raise encoder.refused("chunk_size", chunk_size, "a multiple of the strides, of twice them if it is shifted")
    return {"chunk_size": chunk_size, "shifted_chunks": shifted, **widths}


def _conditioners(conditioning: _Section) -> tuple[_Section, _Section]:
    """Return the settings of the prompt's and the duration's conditioner."""
    conditioning.expect({"pre_encoded_keys": ([], [])})
    configs = conditioning.get("configs", None)
    if not isinstance(configs, list) or not all(isinstance(each, dict) for each in configs):
        raise conditioning.refused("configs", configs, "a list of objects")
    entries = [_Section(conditioning.path, f"{conditioning.name}.configs", each) for each in configs]
    kinds = {entry.get("id", None): entry.get("type", None) for entry in entries}
    if kinds != {"prompt": "t5gemma", "seconds_total": "number"}:
        raise conditioning.refused("configs", kinds, "a t5gemma named prompt and a number named seconds_total")
    found = {entry.get("id", None): entry.section("config") for entry in entries}
    found["prompt"].expect(_PROMPT)
    found["seconds_total"].expect(_SECONDS)
    return found["prompt"], found["seconds_total"]


def _max_tokens(prompt: _Section) -> int:
    found = prompt.number("max_length", 128)
    if not 0 < found <= MAX_TOKENS:
        raise prompt.refused("max_length", found, f"from 1 to {MAX_TOKENS}")
    return found


def _subfolder(prompt: _Section) -> str | None:
    found = prompt.get("subfolder", None)
    if found is not None and (not isinstance(found, str) or found in ("", "..") or Path(found).name != found):
        raise prompt.refused("subfolder", found, "the name of a folder")
    return found
