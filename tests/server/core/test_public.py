"""A client reads the names of files, not where they are on the server."""

import pytest

from server.core.public import without_paths


@pytest.mark.parametrize(
    ("sentence", "public"),
    [
        ("/home/me/.cache/hub/model_index.json is missing.", "model_index.json is missing."),
        (
            "Incomplete: /data/wan/vae/config.json is empty.",
            "Incomplete: config.json is empty.",
        ),
        ("'/data/loras/film.safetensors' is a DoRA.", "'film.safetensors' is a DoRA."),
        ("No space in /data/models/ (1 GiB)", "No space in models/ (1 GiB)"),
        (r"C:\wan\vae\config.json is empty.", "config.json is empty."),
        ("~/weights/wan/a.gguf and ~/b.gguf differ.", "a.gguf and b.gguf differ."),
        ("No weights of Wan-AI/Wan2.1-T2V-14B-Diffusers.", "No weights of Wan-AI/Wan2.1-T2V-14B-Diffusers."),
        (
            "https://hub.example/api/models does not answer.",
            "https://hub.example/api/models does not answer.",
        ),
        ("1/2 of 3 GiB/s, and/or 16:9", "1/2 of 3 GiB/s, and/or 16:9"),
        ("There is no route /api/ai/nothing.", "There is no route nothing."),
    ],
)
def test_folders_are_left_out(sentence: str, public: str) -> None:
    assert without_paths(sentence) == public
