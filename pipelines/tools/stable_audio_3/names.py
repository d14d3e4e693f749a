"""The names of Stable Audio 3's tensors in the published file, for each of diffusers' names.

In a table `#` stands for a number and `*` for the rest of a name; the first row that fits counts. Source: the modules
of github.com/Stability-AI/stable-audio-3 at commit 636f906 (`factory.py` nests them), whose state is what is published.
"""

import re
from collections.abc import Mapping

_DIT = "model.model."
_TRUNK = f"{_DIT}transformer."
_SAME = "pretransform.model."
_CONDITIONERS = "conditioner.conditioners."

TRANSFORMER = {
    "prompt_padding_embedding": f"{_CONDITIONERS}prompt.padding_embedding",
    "to_timestep_embed.*": f"{_DIT}to_timestep_embed.*",
    "to_cond_embed.*": f"{_DIT}to_cond_embed.*",
    "to_global_embed.*": f"{_DIT}to_global_embed.*",
    "preprocess_conv.weight": f"{_DIT}preprocess_conv.weight",
    "postprocess_conv.weight": f"{_DIT}postprocess_conv.weight",
    "proj_in.weight": f"{_TRUNK}project_in.weight",
    "proj_out.weight": f"{_TRUNK}project_out.weight",
    "memory_tokens": f"{_TRUNK}memory_tokens",
    "global_cond_embedder.*": f"{_TRUNK}global_cond_embedder.*",
    "transformer_blocks.#.ff.proj_in.*": f"{_TRUNK}layers.#.ff.ff.0.proj.*",
    "transformer_blocks.#.ff.proj_out.*": f"{_TRUNK}layers.#.ff.ff.2.*",
    "transformer_blocks.#.pre_norm.gamma": f"{_TRUNK}layers.#.pre_norm.gamma",
    "transformer_blocks.#.cross_attend_norm.gamma": f"{_TRUNK}layers.#.cross_attend_norm.gamma",
    "transformer_blocks.#.ff_norm.gamma": f"{_TRUNK}layers.#.ff_norm.gamma",
    "transformer_blocks.#.self_attn.*": f"{_TRUNK}layers.#.self_attn.*",
    "transformer_blocks.#.cross_attn.*": f"{_TRUNK}layers.#.cross_attn.*",
    "transformer_blocks.#.to_scale_shift_gate": f"{_TRUNK}layers.#.to_scale_shift_gate",
    "transformer_blocks.#.to_local_embed.*": f"{_TRUNK}layers.#.to_local_embed.*",
}

DURATION_EMBEDDER = {"linear.*": f"{_CONDITIONERS}seconds_total.embedder.embedding.1.*"}

FREQUENCIES = frozenset({"rotary_pos_emb.inv_freq", "freqs"})
"""diffusers' names of tensors that follow from its configurations."""

TRANSFORMER_FREQUENCIES = f"{_TRUNK}rotary_pos_emb.inv_freq"

NO_NUMBERS = f"{_SAME}bottleneck.noise_scaling_factor"
"""A published tensor that is empty."""

_VAE_FREQUENCIES = re.compile(rf"{re.escape(_SAME)}(encoder|decoder)\.layers\.\d+\.transformers\.\d+\.rope\.inv_freq")

TEXT_ENCODER = {"encoder.*": "model.encoder.*"}
"""In the text encoder's own file. Its decoder is not used."""

TEXT_ENCODER_UNUSED = ("model.decoder.", "lm_head.")
"""How the names of the tensors begin that only the whole model of the text encoder has."""

_DECODER_BLOCKS_START = 3
"""The decoder's layers begin with a transposition, a projection and a transposition."""

_LAYERS = {
    "norm_attn.*": "pre_norm.*",
    "norm_ff.*": "ff_norm.*",
    "attn.*": "self_attn.*",
    "ff.proj_in.*": "ff.ff.0.proj.*",
    "ff.proj_out.*": "ff.ff.2.*",
}


def vae_names(levels: int) -> dict[str, str]:
    """Return the table of an autoencoder with so many resampling blocks on either side."""
    names = {
        "bottleneck.scale": f"{_SAME}bottleneck.scaling_factor",
        "bottleneck.bias": f"{_SAME}bottleneck.bias",
        "bottleneck.running_std": f"{_SAME}bottleneck.running_std",
        # a transposition follows the encoder's blocks
        "encoder.proj.*": f"{_SAME}encoder.layers.{levels + 1}.*",
        "decoder.proj.*": f"{_SAME}decoder.layers.1.*",
    }
    for level in range(levels):
        for side, layer in (("encoder", level), ("decoder", _DECODER_BLOCKS_START + level)):
            ours, published = f"{side}.blocks.{level}", f"{_SAME}{side}.layers.{layer}"
            names |= {
                f"{ours}.mapping.*": f"{published}.mapping.*",
                f"{ours}.new_tokens": f"{published}.new_tokens",
            }
            for ours_layer, published_layer in _LAYERS.items():
                names[f"{ours}.transformers.#.{ours_layer}"] = f"{published}.transformers.#.{published_layer}"
    return names


def is_vae_frequencies(name: str) -> bool:
    """Whether a published name is that of a block's rotary frequencies, which diffusers computes and does not store."""
    return _VAE_FREQUENCIES.fullmatch(name) is not None


def published_name(table: Mapping[str, str], name: str) -> str | None:
    """Return the published name of a tensor from diffusers' name; None if the table has no row for it."""
    for ours, published in table.items():
        # re.escape quotes both signs
        pattern = re.escape(ours).replace(r"\#", r"(\d+)").replace(r"\*", "(.+)")
        if found := re.fullmatch(pattern, name):
            return re.sub("[#*]", "{}", published).format(*found.groups())
    return None
