"""Downloads from a fake hub: complete, interrupted and resumed, damaged, refused, on a full disk."""

import errno
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
from huggingface_hub.utils import close_session

from pipelines.core.errors import (
    DamagedFileError,
    DiskSpaceError,
    FetchError,
    HubAccessError,
    HubUnreachableError,
    PipelineError,
    UnsupportedModelError,
    WeightsNotFoundError,
)
from pipelines.core.model import Fast, Lora, ModelSpec, WeightFile
from pipelines.hub import local as weights
from pipelines.hub.cache import exclusive
from pipelines.hub.download import download
from pipelines.hub.lookup import look_up, look_up_files
from pipelines.loading.load import load_pipeline
from tests.support.hub import Hub, Request
from tests.support.models.wan_image import flf2v_folder
from tests.support.server_process import free_port

SPEC = ModelSpec(repo=Hub.repo, fps=16, id="some-model")
LARGEST = "text_encoder/model.safetensors"
UNNEEDED = (
    "README.md",
    "assets/picture.png",
    "image_encoder/config.json",
    "image_encoder/model.safetensors",
    "transformer/diffusion_pytorch_model.bin",
    "transformer/diffusion_pytorch_model.fp16.safetensors",
)
CHUNK = 16 * 1024


@pytest.fixture
def hub(weights_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with the demo weights and other files that a repository may have; an empty cache."""
    folder = Path(shutil.copytree(weights_folder, tmp_path / "repository"))
    for name in UNNEEDED:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"not needed")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(
        json.dumps({**index, "image_encoder": ["transformers", "CLIPVisionModel"], "transformer_2": [None, None]})
    )
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", CHUNK)
    monkeypatch.setattr("pipelines.hub.download.PAUSES", (0.01, 0.01))
    # the library's pause between its own retries
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    with Hub(folder) as hub:
        yield hub


def pull(hub: Hub, verify: bool = False) -> Path:
    return download(look_up(SPEC, hub.url), verify=verify)


def partial_of(name: str, hub: Hub) -> Path:
    listing = look_up(SPEC, hub.url)
    return listing.partial(next(file for file in listing.files if file.name == name))


def test_a_complete_download_is_found_and_loads(hub: Hub) -> None:
    listing = look_up(SPEC, hub.url)
    assert {file.name for file in listing.files} == set(hub.files()) - set(UNNEEDED)
    assert listing.total == sum(len(hub.files()[file.name]) for file in listing.files)
    seen: list[int] = []

    folder = download(listing, lambda _, done: seen.append(done))

    assert seen[-1] == listing.total
    assert seen == sorted(seen)
    assert weights.locate(SPEC) == folder
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == {
        file.name for file in listing.files
    }
    load_pipeline(ModelSpec("wan21", fps=16), folder, "cpu")


def test_an_image_encoder_and_its_settings_are_downloaded_where_the_pipeline_has_them(hub: Hub, tmp_path: Path) -> None:
    hub.folder = flf2v_folder(tmp_path / "flf2v")
    (hub.folder / "README.md").write_text("not needed")
    spec = replace(SPEC, pipeline_class="WanImageToVideoPipeline")

    folder = download(look_up(spec, hub.url))

    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == (
        set(hub.files()) - {"README.md"}
    )
    assert weights.locate(spec) == folder
    assert load_pipeline(spec, folder, "cpu").pipe.image_encoder is not None


def test_huggingface_hub_finds_it(hub: Hub) -> None:
    from huggingface_hub import snapshot_download

    folder = pull(hub)

    assert snapshot_download(Hub.repo, local_files_only=True) == str(folder)


def test_files_that_are_here_are_not_downloaded_again(hub: Hub) -> None:
    folder = pull(hub)
    hub.requests.clear()

    assert look_up(SPEC, hub.url).missing == 0
    assert pull(hub) == folder
    assert hub.sent() == 0

    # nor files that another commit has, too
    hub.commit = "f" * 40
    (hub.folder / "scheduler" / "scheduler_config.json").write_text("{}")
    assert pull(hub).name == hub.commit
    assert [request.path.rpartition("/")[2] for request in hub.gets()] == ["scheduler_config.json"]
    assert weights.locate(SPEC).name == hub.commit


@pytest.mark.parametrize(
    "environment",
    [{"ALL_PROXY": "socks9://127.0.0.1:1"}, {"HTTPS_PROXY": "http://proxy:port"}],
    ids=", ".join,
)
def test_a_proxy_that_cannot_be_used_is_explained(
    hub: Hub, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    close_session()
    try:
        with pytest.raises(FetchError, match=r"HTTPS_PROXY, ALL_PROXY, NO_PROXY, SSL_CERT_FILE"):
            look_up(SPEC)
    finally:
        close_session()


def test_a_broken_connection_is_resumed_where_it_broke(hub: Hub) -> None:
    size = len(hub.files()[LARGEST])
    hub.errors.cut_after[LARGEST] = [size // 2, size // 4]

    pull(hub)

    first, second, third = hub.gets(LARGEST)
    assert first.start == 0
    assert first.sent - CHUNK < second.start <= first.sent
    assert second.start + second.sent - CHUNK < third.start <= second.start + second.sent
    assert hub.sent(LARGEST) < size + 2 * CHUNK


def test_a_failed_download_resumes_where_it_stopped(hub: Hub) -> None:
    size = len(hub.files()[LARGEST])
    hub.errors.cut_after[LARGEST] = [size // 2, *[0] * 50]
    with pytest.raises(HubUnreachableError, match=r"cannot be reached: .*resumes from there"):
        pull(hub)
    kept = partial_of(LARGEST, hub).stat().st_size
    assert size // 2 - CHUNK < kept <= size // 2
    with pytest.raises(WeightsNotFoundError, match="paddock pull --model some-model"):
        weights.locate(SPEC)

    hub.errors.cut_after.clear()
    hub.requests.clear()
    pull(hub)

    (request,) = hub.gets(LARGEST)
    assert (request.start, request.sent) == (kept, size - kept)
    weights.locate(SPEC)


def test_a_server_without_ranges_is_read_from_the_start(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(hub.files()[LARGEST])
    partial = partial_of(LARGEST, hub)
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.write_bytes(hub.files()[LARGEST][: size // 2])
    monkeypatch.setattr("huggingface_hub.file_download._adjust_range_header", lambda *_: "")
    seen: list[int] = []

    listing = look_up(SPEC, hub.url)
    download(listing, lambda _, done: seen.append(done))

    assert hub.gets(LARGEST)[0].start == 0
    assert seen[-1] == listing.total


@pytest.mark.parametrize("name", [LARGEST, "vae/config.json"])
def test_a_file_damaged_in_transit_is_downloaded_again(hub: Hub, name: str) -> None:
    hub.errors.damaged[name] = 1

    folder = pull(hub)

    assert (folder / name).read_bytes() == hub.files()[name]
    assert len(hub.gets(name)) == 2


@pytest.mark.parametrize("name", [LARGEST, "vae/config.json"])
def test_a_file_that_stays_damaged_is_named_and_removed(hub: Hub, name: str) -> None:
    hub.errors.damaged[name] = 10

    with pytest.raises(DamagedFileError, match=name):
        pull(hub)

    assert not (hub.folder.parent / "cache" / "models--Some--Model" / "snapshots" / hub.commit / name).exists()
    with pytest.raises(WeightsNotFoundError):
        weights.locate(SPEC)


def test_a_partial_file_with_other_content_costs_one_more_attempt(hub: Hub) -> None:
    partial = partial_of(LARGEST, hub)
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.write_bytes(b"x" * 1000)

    assert (pull(hub) / LARGEST).read_bytes() == hub.files()[LARGEST]
    assert not list(partial.parent.glob("*incomplete"))


def test_a_file_of_the_wrong_size_is_downloaded_again(hub: Hub) -> None:
    folder = pull(hub)
    for name in (LARGEST, "vae/config.json"):
        (folder / name).resolve().write_bytes(b"short")
    hub.requests.clear()

    pull(hub)

    assert {request.path.rpartition("/")[2] for request in hub.gets()} == {"model.safetensors", "config.json"}
    assert (folder / LARGEST).read_bytes() == hub.files()[LARGEST]
    assert (folder / "vae" / "config.json").read_bytes() == hub.files()["vae/config.json"]


def test_verify_finds_a_changed_byte(hub: Hub) -> None:
    folder = pull(hub)
    whole = hub.files()[LARGEST]
    (folder / LARGEST).resolve().write_bytes(b"?" + whole[1:])

    hub.requests.clear()
    pull(hub)
    assert hub.sent() == 0
    pull(hub, verify=True)
    assert [request.path.rpartition("/")[2] for request in hub.gets()] == ["model.safetensors"]
    assert (folder / LARGEST).read_bytes() == whole


def test_a_users_own_link_is_replaced_but_not_its_target(hub: Hub, tmp_path: Path) -> None:
    folder = pull(hub)
    own = tmp_path / "own.safetensors"
    own.write_bytes(b"mine")
    (folder / LARGEST).unlink()
    (folder / LARGEST).symlink_to(own)
    listing = look_up(SPEC, hub.url)
    listing.blob(next(file for file in listing.files if file.name == LARGEST)).unlink()

    pull(hub)

    assert own.read_bytes() == b"mine"
    assert (folder / LARGEST).read_bytes() == hub.files()[LARGEST]


def test_without_symlinks_files_are_moved_into_the_snapshot(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "no links here")

    monkeypatch.setattr("pathlib.Path.symlink_to", refuse)

    folder = pull(hub)

    assert not (folder / LARGEST).is_symlink()
    assert weights.locate(SPEC) == folder


class _Usage(NamedTuple):
    free: int


def test_too_little_disk_space_is_an_error_before_the_download(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    listing = look_up(SPEC, hub.url)
    hub.requests.clear()
    monkeypatch.setattr("shutil.disk_usage", lambda _: _Usage(free=listing.missing - 1))

    with pytest.raises(DiskSpaceError, match=rf"MB more in {tmp_path / 'cache'}, and .* free there.*HF_HOME"):
        download(listing)

    assert not hub.requests
    monkeypatch.setattr("shutil.disk_usage", lambda _: _Usage(free=listing.missing))
    download(listing)


def test_a_disk_that_fills_during_the_download_is_a_sentence(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = look_up(SPEC, hub.url)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    with pytest.raises(DiskSpaceError, match=r"The disk is full: .* are missing"):
        download(listing)


def test_a_cache_that_cannot_be_written_to_is_a_sentence(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "file" / "hub"))

    with pytest.raises(FetchError, match=r"cannot be written to: Not a directory\. Set HF_HOME"):
        pull(hub)


@pytest.mark.parametrize(
    ("refusal", "kind", "sentence"),
    [
        ((401, "RepoNotFound"), HubAccessError, "There is no repository Some/Model on http.*HF_TOKEN"),
        ((403, "GatedRepo"), HubAccessError, "Some/Model is gated .*HF_TOKEN"),
        ((403, ""), HubAccessError, r"does not give Some/Model to this user \(403\)"),
        ((404, "RevisionNotFound"), HubAccessError, "Some/Model has no revision main"),
        ((503, ""), HubUnreachableError, "answers 503"),
        ((200, ""), HubUnreachableError, "is not a hub"),
    ],
)
def test_a_refusal_of_the_hub_is_a_sentence(
    hub: Hub, refusal: tuple[int, str], kind: type[FetchError], sentence: str
) -> None:
    hub.errors.refusal = refusal

    with pytest.raises(kind, match=sentence):
        look_up(SPEC, hub.url)


def test_a_refusal_during_the_download_is_a_sentence(hub: Hub) -> None:
    listing = look_up(SPEC, hub.url)
    hub.errors.refusal = (403, "GatedRepo")

    with pytest.raises(HubAccessError, match="gated"):
        download(listing)


def test_no_hub_at_all_is_a_sentence(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HubUnreachableError, match=r"The hub at http://127\.0\.0\.1:\d+ cannot be reached"):
        look_up(SPEC, f"http://127.0.0.1:{free_port()}")
    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: True)
    with pytest.raises(HubUnreachableError, match="HF_HUB_OFFLINE"):
        look_up(SPEC, hub.url)


@pytest.mark.parametrize(
    ("spec", "kind", "sentence"),
    [
        (ModelSpec("Some/Other", fps=16), HubAccessError, "no repository Some/Other"),
        (
            ModelSpec("no such/folder/x", fps=16),
            HubAccessError,
            "neither a folder on this machine nor a valid repository name",
        ),
        (ModelSpec(Hub.repo, fps=16, revision="v9"), HubAccessError, "no revision v9"),
        (ModelSpec(Hub.repo, fps=16, pipeline_class="FluxPipeline"), UnsupportedModelError, "WanPipeline"),
    ],
)
def test_a_model_the_hub_does_not_have_is_a_sentence(
    hub: Hub, spec: ModelSpec, kind: type[Exception], sentence: str
) -> None:
    with pytest.raises(kind, match=sentence):
        look_up(spec, hub.url)
    assert hub.sent(LARGEST) == 0


def test_the_token_is_sent_to_the_hub_and_not_to_its_file_server(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")

    pull(hub)

    def asked(store: bool) -> list[Request]:
        return [request for request in hub.requests if request.path.startswith("/store/") == store]

    assert {request.authorization for request in asked(store=False)} == {"Bearer hf_secret"}
    assert {request.authorization for request in asked(store=True)} == {None}


def test_a_repository_is_downloaded_once_at_a_time(hub: Hub) -> None:
    listing = look_up(SPEC, hub.url)
    with exclusive(listing), pytest.raises(FetchError, match="another process"):
        download(listing)


def test_a_folder_is_checked_for_completeness(weights_folder: Path, hub: Hub, tmp_path: Path) -> None:
    assert weights.locate_in(weights_folder, SPEC) == weights_folder
    # another hub cache, given as HF_HUB_CACHE or as HF_HOME
    folder = pull(hub)
    (tmp_path / "home").mkdir()
    cache = Path(shutil.move(tmp_path / "cache", tmp_path / "home" / "hub"))
    moved = cache / folder.relative_to(tmp_path / "cache")
    assert weights.locate_in(cache, SPEC) == weights.locate_in(cache.parent, SPEC) == moved

    copied = Path(shutil.copytree(weights_folder, tmp_path / "copied"))
    with (copied / LARGEST).open("r+b") as file:
        file.truncate(5000)
    with pytest.raises(WeightsNotFoundError, match=f"{LARGEST} is truncated"):
        weights.locate_in(copied, SPEC)
    with (copied / LARGEST).open("r+b") as file:
        file.truncate(5)
    with pytest.raises(WeightsNotFoundError, match=f"{LARGEST} is truncated"):
        weights.locate_in(copied, SPEC)
    (copied / LARGEST).unlink()
    with pytest.raises(WeightsNotFoundError, match="incomplete"):
        weights.locate_in(copied, SPEC)


def test_of_sharded_weights_only_the_files_of_the_index_are_downloaded(hub: Hub) -> None:
    folder = hub.folder / "transformer"
    single = folder / "diffusion_pytorch_model.safetensors"
    shard, old = (f"diffusion_pytorch_model-00001-of-0000{count}.safetensors" for count in (1, 2))
    shutil.copy(single, folder / old)
    shutil.copy(single, folder / shard)
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"patch_embedding.weight": shard}}))
    (folder / "diffusion_pytorch_model.fp16.safetensors.index.json").write_text("not needed")

    names = {file.name for file in look_up(SPEC, hub.url).files}

    assert {name for name in names if name.startswith("transformer/")} == {
        "transformer/config.json",
        f"transformer/{index.name}",
        f"transformer/{shard}",
    }
    assert pull(hub) == weights.locate(SPEC)


@pytest.mark.parametrize(
    ("weight_map", "sentence"),
    [
        ({"a": "gone.safetensors"}, r"has no transformer/gone\.safetensors"),
        ({"a": "../../../evil.safetensors"}, r"not the name of a safetensors file in its folder"),
        ({}, "names no files"),
    ],
)
def test_an_index_that_cannot_be_followed_ends_the_download(
    weight_map: dict[str, str], sentence: str, hub: Hub
) -> None:
    index = hub.folder / "transformer" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))

    with pytest.raises(PipelineError, match=sentence):
        pull(hub)


def test_loras_are_downloaded_from_their_own_repositories(hub: Hub, tmp_path: Path) -> None:
    (hub.folder / "loras").mkdir()
    (hub.folder / "loras" / "fast.safetensors").write_bytes(b"of low rank")
    (tmp_path / "mine.safetensors").write_bytes(b"my own")
    fast = Fast((Lora(Hub.repo, "loras/fast.safetensors"),), flow_shift=5.0)
    spec = replace(SPEC, loras=(Lora(str(tmp_path), "mine.safetensors"),), fast=fast)

    (listing,) = look_up_files(spec, hub.url)
    assert [file.name for file in listing.files] == ["loras/fast.safetensors"]
    with pytest.raises(WeightsNotFoundError, match="No loras/fast"):
        weights.locate_file(Hub.repo, "loras/fast.safetensors")
    download(listing)

    assert weights.locate_file(Hub.repo, "loras/fast.safetensors").read_bytes() == b"of low rank"
    assert weights.locate_file(str(tmp_path), "mine.safetensors") == tmp_path / "mine.safetensors"
    with pytest.raises(HubAccessError, match=r"has no loras/gone\.safetensors"):
        look_up_files(replace(SPEC, loras=(Lora(Hub.repo, "loras/gone.safetensors"),)), hub.url)


def test_a_transformers_file_is_downloaded_instead_of_the_repositorys(hub: Hub, tmp_path: Path) -> None:
    (hub.folder / "quantized").mkdir()
    for name in ("tuned-Q4_K_M.gguf", "tuned-Q8_0.gguf"):
        (hub.folder / "quantized" / name).write_bytes(b"GGUF of one kind")
    (hub.folder / "transformer" / "diffusion_pytorch_model.safetensors.index.json").write_text("{}")
    spec = replace(SPEC, files=(WeightFile(Hub.repo, "quantized/tuned-Q4_K_M.gguf"),))

    listings = [look_up(spec, hub.url), *look_up_files(spec, hub.url)]
    for listing in listings:
        download(listing)

    names = {file.name for listing in listings for file in listing.files}
    replaced = {name for name in hub.files() if name.startswith("transformer/diffusion")}
    assert names == set(hub.files()) - set(UNNEEDED) - replaced - {"quantized/tuned-Q8_0.gguf"}
    assert "transformer/config.json" in names
    assert weights.locate(spec) == weights.locate_in(tmp_path / "cache", spec) == listings[0].folder
    assert not hub.gets("diffusion_pytorch_model.safetensors")[1:]
    # another model of the same repository still lacks the weights that this one does not need
    with pytest.raises(WeightsNotFoundError, match=r"no \.safetensors file in .*transformer"):
        weights.locate(SPEC)

    weights.locate_file(Hub.repo, "quantized/tuned-Q4_K_M.gguf").unlink()
    with pytest.raises(WeightsNotFoundError, match=r"No quantized/tuned-Q4_K_M\.gguf of .*pull --model some-model`"):
        weights.locate(spec)
