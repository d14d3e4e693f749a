"""Each prompt is encoded once and cached in memory and on disk."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pipelines.core.model import ModelSpec
from pipelines.core.request import VideoParams
from pipelines.runner.callbacks import Callbacks
from pipelines.runner.runner import Runner
from pipelines.stages.conditioning.text_encoding import MAX_PROMPTS, EmbeddingStore, PromptEncoder
from tests.support.server_process import SmallDisk


def counting(runner: Runner) -> tuple[SimpleNamespace, list[str]]:
    """A pipeline that records what it encodes."""
    encoded: list[str] = []

    def encode_prompt(prompt: str, **options: Any) -> Any:
        encoded.append(prompt)
        return runner._loaded.pipe.encode_prompt(prompt, **options)

    return SimpleNamespace(encode_prompt=encode_prompt), encoded


def watched(monkeypatch: pytest.MonkeyPatch, refused: str = "") -> list[str]:
    """Records what is encoded, and lets one prompt run out of memory."""
    encode, encoded = PromptEncoder._encode, []

    def noting(self: PromptEncoder, prompt: str) -> torch.Tensor:
        if prompt == refused:
            raise torch.OutOfMemoryError("no memory")
        encoded.append(prompt)
        return encode(self, prompt)

    monkeypatch.setattr(PromptEncoder, "_encode", noting)
    return encoded


@torch.no_grad()
def test_each_prompt_is_encoded_once_and_the_oldest_is_evicted(demo_runner: Runner) -> None:
    pipe, encoded = counting(demo_runner)
    encoder = PromptEncoder(pipe, torch.device("cpu"), 512)

    first = encoder.encode("ox")
    assert first.shape[:2] == (1, 512)
    assert encoder.encode("ox") is first
    for number in range(MAX_PROMPTS - 1):
        encoder.encode(str(number))
    assert encoder.encode("ox") is first

    for number in range(MAX_PROMPTS):
        encoder.encode(f"more {number}")
    torch.testing.assert_close(encoder.encode("ox"), first, rtol=0, atol=0)
    assert encoded.count("ox") == 2


@torch.no_grad()
def test_a_videos_stats_count_cached_prompts(weights_folder: Path, tmp_path: Path) -> None:
    # not the shared runner, whose cache has the prompts of other tests
    runner = Runner.load(ModelSpec("demo", fps=16), weights_folder, "cpu")
    params = VideoParams("never asked for before", "nor this", 64, 64, 1, 1, 5.0, 7)

    said = [
        runner.run(params, tmp_path / "video.mp4").stats,
        runner.run(params, tmp_path / "video.mp4").stats,
        runner.run(replace(params, prompt="something else"), tmp_path / "video.mp4").stats,
        # without guidance the negative prompt is not needed
        runner.run(replace(params, guidance_scale=1.0), tmp_path / "video.mp4").stats,
    ]

    assert [(work.prompts_encoded, work.prompts_cached) for work in said] == [(2, 0), (0, 2), (1, 1), (0, 1)]


def test_upcoming_prompts_are_encoded_while_the_device_denoises(
    demo_runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = watched(monkeypatch)
    params = VideoParams("the first of two", "unwanted", 64, 64, 1, 2, 5.0, 7)
    expected = demo_runner.run(params, tmp_path / "video.mp4").path.read_bytes()
    asked: list[list[str]] = []

    def upcoming() -> list[str]:
        asked.append([] if asked else ["the second", "unwanted"])
        return asked[-1]

    first = demo_runner.run(params, tmp_path / "video.mp4", Callbacks(upcoming=upcoming))
    assert len(asked) == 4
    assert encoded == ["the first of two", "unwanted", "the second"]
    assert first.path.read_bytes() == expected
    second = demo_runner.run(replace(params, prompt="the second"), tmp_path / "video.mp4")

    assert encoded == ["the first of two", "unwanted", "the second"]
    # it was encoded for this video
    assert (second.stats.prompts_encoded, second.stats.prompts_cached) == (1, 1)


def test_a_prompt_that_cannot_be_prefetched_fails_only_its_own_video(
    demo_runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched(monkeypatch, refused="a poisoned one")
    params = VideoParams("a sound one", "unwanted", 64, 64, 1, 1, 5.0, 7)

    demo_runner.run(params, tmp_path / "video.mp4", Callbacks(upcoming=lambda: ["a poisoned one"]))

    with pytest.raises(torch.OutOfMemoryError):
        demo_runner.run(replace(params, prompt="a poisoned one"), tmp_path / "video.mp4")
    demo_runner.run(params, tmp_path / "video.mp4")


@pytest.mark.parametrize("tokens", [511, 512, 513])
def test_a_prompt_of_more_tokens_than_the_model_reads_is_reported(
    demo_runner: Runner, tokens: int, tmp_path: Path
) -> None:
    # a token for each letter, one for the space before a word, and one for the end
    words = "o" * (tokens - 2)
    assert demo_runner._stages._prompts.count_tokens(words) == tokens
    params = VideoParams(words, words, 64, 64, 1, 1, 5.0, 7)
    said: list[tuple[str, ...]] = []

    for guidance_scale in (5.0, 1.0):
        asked = replace(params, guidance_scale=guidance_scale)
        demo_runner.run(asked, tmp_path / "video.mp4", Callbacks(on_warnings=said.append))

    sentence = f" has {tokens} tokens, and the model reads only the first 512: the rest was ignored."
    both, prompt = ("prompt" + sentence, "negative_prompt" + sentence), ("prompt" + sentence,)
    # without guidance the negative prompt is not read at all
    assert said == ([both, prompt] if tokens > 512 else [])


def test_padding_is_zero(demo_runner: Runner) -> None:
    embeddings = PromptEncoder(demo_runner._loaded.pipe, torch.device("cpu"), 512).encode("ox")

    assert embeddings[0, :2].abs().sum() > 0
    assert embeddings[0, 100:].abs().sum() == 0


@torch.no_grad()
def test_embeddings_on_disk_outlive_the_encoder(demo_runner: Runner, tmp_path: Path) -> None:
    pipe, encoded = counting(demo_runner)

    def encoder(made_by: str) -> PromptEncoder:
        return PromptEncoder(pipe, torch.device("cpu"), 512, EmbeddingStore(tmp_path, made_by))

    first = encoder("these weights").encode("牛 ../ox")
    again = encoder("these weights").encode("牛 ../ox")
    assert torch.equal(first, again)
    assert first.dtype == again.dtype
    assert len(encoded) == 1

    encoder("other weights").encode("牛 ../ox")
    assert len(encoded) == 2
    assert all(len(path.stem) == 64 for path in tmp_path.iterdir())


def test_the_least_recently_used_embeddings_are_deleted_first(tmp_path: Path) -> None:
    size = 4 * 1000
    store = EmbeddingStore(tmp_path, "weights", limit=3 * (size + 200))
    encoded: list[str] = []

    def get(prompt: str) -> torch.Tensor:
        def encode() -> torch.Tensor:
            encoded.append(prompt)
            return torch.full((1, 10, 100), float(ord(prompt)))

        return store.get(prompt, encode)

    for prompt in "abcad":
        assert get(prompt)[0, 0, 0] == ord(prompt)
    assert encoded == list("abcd")
    assert len(list(tmp_path.iterdir())) == 3
    get("a")
    assert encoded == list("abcd")
    get("b")
    assert encoded == list("abcdb")


def saved(embeddings: torch.Tensor) -> Callable[[Path], None]:
    """Replace the embeddings in a file, as another program would write them."""
    return lambda path: save_file({"embeddings": embeddings}, path)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\x00" * 100),
        lambda path: path.write_bytes(path.read_bytes()[:-4]),
        flip,
        saved(torch.ones(1, 2, 4)),
        saved(torch.ones(2, 3)),
        saved(torch.ones(1, 2, 3, dtype=torch.int32)),
        saved(torch.full((1, 2, 3), torch.nan)),
        lambda path: save_file({"others": torch.ones(1, 2, 3)}, path),
    ],
    ids=["empty", "zeros", "cut off", "a flipped bit", "shape", "rank", "dtype", "NaN", "other tensor"],
)
def test_a_damaged_file_is_replaced_once(
    damage: Callable[[Path], Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = EmbeddingStore(tmp_path, "weights")
    store.get("ox", lambda: torch.ones(1, 2, 3))
    (path,) = tmp_path.iterdir()
    damage(path)

    assert store.get("ox", lambda: torch.zeros(1, 2, 3)).sum() == 0
    assert store.get("ox", lambda: torch.ones(1, 2, 3)).sum() == 0
    assert len([line for line in caplog.messages if f"{path} is damaged and will be made again" in line]) == 1


def test_what_a_killed_writer_left_is_deleted(tmp_path: Path) -> None:
    left, being_written = tmp_path / ".a.safetensors.part", tmp_path / ".b.safetensors.part"
    for path in (left, being_written):
        path.touch()
    os.utime(left, (1, 1))

    EmbeddingStore(tmp_path, "weights").get("ox", lambda: torch.ones(1, 2, 3))

    assert (left.exists(), being_written.exists()) == (False, True)


def test_on_a_full_disk_prompts_are_encoded_again_and_nothing_is_left(small_disk: SmallDisk) -> None:
    store = EmbeddingStore(small_disk.folder / "prompts", "weights")
    store.get("kept", lambda: torch.ones(1, 2, 3))
    small_disk.fill(leave=8_192)

    assert store.get("ox", lambda: torch.ones(1, 100, 100)).sum() == 10_000
    assert store.get("ox", lambda: torch.zeros(1, 100, 100)).sum() == 0
    assert store.get("kept", lambda: torch.zeros(1, 2, 3)).sum() == 6
    assert len(list((small_disk.folder / "prompts").iterdir())) == 1
    small_disk.empty()
    store.get("ox", lambda: torch.ones(1, 100, 100))
    assert store.get("ox", lambda: torch.zeros(1, 100, 100)).sum() == 10_000


def test_embeddings_are_read_from_a_read_only_disk(small_disk: SmallDisk) -> None:
    store = EmbeddingStore(small_disk.folder, "weights")
    store.get("ox", lambda: torch.ones(1, 2, 3))
    small_disk.make_read_only()

    assert store.get("ox", lambda: torch.zeros(1, 2, 3)).sum() == 6
    assert store.get("cow", lambda: torch.zeros(1, 2, 3)).sum() == 0


def test_on_a_read_only_disk_prompts_are_encoded_again(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    store = EmbeddingStore(tmp_path / "file" / "prompts", "weights")

    assert store.get("ox", lambda: torch.ones(1, 2, 3)).sum() == 6
    assert store.get("ox", lambda: torch.zeros(1, 2, 3)).sum() == 0
