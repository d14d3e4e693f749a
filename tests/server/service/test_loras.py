"""Requests name LoRAs of the catalogue and of the folder; anything else is refused with the names there are."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.core.model import OptionalLora
from pipelines.core.request import MAX_LORAS, RequestLora
from pipelines.models.catalogue import CatalogueEntry, read_catalogue
from server.core.errors import InvalidParamsError, UnavailableError
from server.service import loras as module
from server.service.loras import AvailableLora, LoraCatalogue, LoraSource, choose_loras
from server.service.requests import parameters
from server.service.requests.echo import echo
from tests.support.models.headers import write_header

MODELS = read_catalogue()
SMALL, LARGE, PAIR = (f"wan-ai-{name}-diffusers" for name in ("wan2-1-t2v-1-3b", "wan2-1-t2v-14b", "wan2-2-t2v-a14b"))
AVAILABLE = {
    "mine": AvailableLora("mine", None, 7, LoraSource.FOLDER),
    "soft": AvailableLora("soft", (LARGE,), None, LoraSource.CATALOGUE, "softer", 0.5),
}


def factors(width: int) -> dict[str, tuple[int, ...]]:
    """The tensors of a LoRA for models with so many features between their blocks."""
    layer = "diffusion_model.blocks.0.self_attn.q"
    return {f"{layer}.lora_down.weight": (4, width), f"{layer}.lora_up.weight": (width, 4)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """LoRAs for models of 14B, for the model of 1.3B, one that cannot be told, and a damaged one."""
    write_header(tmp_path / "large.safetensors", factors(5120))
    write_header(tmp_path / "small.safetensors", factors(1536))
    write_header(tmp_path / "other.safetensors", {"blocks.0.norm.diff": (5120,)})
    (tmp_path / "damaged.safetensors").write_bytes(b"no header")
    return tmp_path


def entry_with(*optional: OptionalLora) -> dict[str, CatalogueEntry]:
    entry = MODELS[LARGE]
    return {**MODELS, LARGE: entry.model_copy(update={"model": replace(entry.model, optional_loras=optional)})}


def test_files_are_listed_with_the_models_they_fit(folder: Path) -> None:
    catalogue = LoraCatalogue(MODELS, folder)
    by_name = {lora.name: lora for lora in catalogue.all()}
    assert list(by_name) == ["damaged", "large", "other", "small"]
    assert by_name["large"].models is not None
    assert {LARGE, PAIR} <= set(by_name["large"].models)
    assert SMALL not in by_name["large"].models
    assert by_name["small"].models == (SMALL,)
    assert by_name["other"].models is by_name["damaged"].models is None
    assert by_name["damaged"].size == len(b"no header")
    assert list(catalogue.of(SMALL)) == ["damaged", "other", "small"]


def test_a_file_is_read_again_only_when_it_changes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalogue, read = LoraCatalogue(MODELS, folder), list[Path]()
    original = module.lora_widths
    monkeypatch.setattr(module, "lora_widths", lambda path: read.append(path) or original(path))
    catalogue.all()
    catalogue.all()
    assert len(read) == 4
    write_header(folder / "small.safetensors", factors(5120))
    (folder / "large.safetensors").unlink()
    assert LARGE in (catalogue.of(LARGE)["small"].models or ())
    assert read[4:] == [folder / "small.safetensors"]


def test_the_catalogues_come_before_files_of_the_same_name(folder: Path) -> None:
    optional = OptionalLora("large", str(folder), "small.safetensors", strength=0.5, description="of the model")
    found = LoraCatalogue(entry_with(optional), folder)
    size = (folder / "small.safetensors").stat().st_size
    own = AvailableLora("large", (LARGE,), size, LoraSource.CATALOGUE, "of the model", 0.5)
    assert found.all()[0] == found.of(LARGE)["large"] == own
    assert found.of(PAIR)["large"].source is LoraSource.FOLDER


def test_a_file_that_is_not_downloaded_has_no_size() -> None:
    (lora,) = LoraCatalogue(entry_with(OptionalLora("far", "/nowhere", "x.safetensors")), None).all()
    assert (lora.name, lora.size) == ("far", None)


def test_other_weights_have_their_own_shape_and_no_loras_of_the_catalogue(weights_folder: Path, folder: Path) -> None:
    optional = OptionalLora("far", "/nowhere", "x.safetensors")
    found = LoraCatalogue(entry_with(optional), folder, weights_folder).all()
    assert {lora.name: lora.models for lora in found} == {"damaged": None, "large": (), "other": None, "small": ()}


def test_a_folder_that_cannot_be_read_is_no_fault_of_the_request(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="gone cannot be read: No such file or directory"):
        LoraCatalogue(MODELS, tmp_path / "gone").all()


def test_loras_are_chosen_with_their_strengths() -> None:
    listed = [{"name": "soft"}, {"name": "mine", "strength": -2}]
    assert choose_loras(listed, LARGE, AVAILABLE) == (RequestLora("soft", 0.5), RequestLora("mine", -2.0))
    assert choose_loras([{"name": "mine", "strength": None}], LARGE, AVAILABLE) == (RequestLora("mine", 1.0),)
    assert choose_loras([{"name": "mine", "strength": 4}], LARGE, AVAILABLE) == (RequestLora("mine", 4.0),)


@pytest.mark.parametrize("listed", ["mine", {"name": "mine"}, 3, True, [{"name": "mine"}] * (MAX_LORAS + 1)])
def test_what_is_no_list_or_too_long_is_refused(listed: Any) -> None:
    with pytest.raises(InvalidParamsError, match="loras must be a list of at most 8 objects"):
        choose_loras(listed, LARGE, AVAILABLE)


@pytest.mark.parametrize("each", ["mine", None, [], {}, {"name": 1}, {"name": "mine", "path": "/etc/passwd"}])
def test_what_is_no_lora_is_refused(each: Any) -> None:
    with pytest.raises(InvalidParamsError, match="each of loras must be an object with a name"):
        choose_loras([each], LARGE, AVAILABLE)


@pytest.mark.parametrize("strength", [0, 0.0, 4.1, -5, "1", True, [1], 10**400, float("nan"), float("inf")])
def test_a_strength_outside_its_limits_is_refused(strength: Any) -> None:
    limits = r"the strength of mine must be a number from 0\.001 to 4, or the negative of one"
    with pytest.raises(InvalidParamsError, match=limits):
        choose_loras([{"name": "mine", "strength": strength}], LARGE, AVAILABLE)


def test_the_same_lora_twice_is_refused() -> None:
    with pytest.raises(InvalidParamsError, match="loras has mine twice"):
        choose_loras([{"name": "mine"}, {"name": "mine", "strength": 2}], LARGE, AVAILABLE)


@pytest.mark.parametrize("name", ["", "Mine", "../mine", "/etc/passwd", "mine\0", "mine.safetensors"])
def test_an_unknown_name_is_refused_with_the_names_there_are(name: str) -> None:
    with pytest.raises(InvalidParamsError) as caught:
        choose_loras([{"name": name}], LARGE, AVAILABLE)
    assert str(caught.value) == f"loras: {name} is not a LoRA of {LARGE}. It has mine, soft."
    with pytest.raises(InvalidParamsError, match=r"is not a LoRA of .*\. It has none\."):
        choose_loras([{"name": name}], LARGE, {})


def test_an_error_names_a_limited_number() -> None:
    many = {f"{number:04}": replace(AVAILABLE["mine"], name=f"{number:04}") for number in range(1000)}
    with pytest.raises(InvalidParamsError, match=r"It has 0000, .*, 0019 and 980 others") as caught:
        choose_loras([{"name": "x" * 10_000}], LARGE, many)
    assert len(str(caught.value)) < 400


def test_a_body_is_resolved_with_its_loras() -> None:
    body = {"prompt": "an ox", "loras": [{"name": "soft"}]}
    assert parameters.resolve(MODELS[LARGE], body, 100, loras=AVAILABLE).loras == (RequestLora("soft", 0.5),)
    assert parameters.resolve(MODELS[LARGE], {**body, "loras": None}, 100).loras == ()
    assert echo(MODELS[LARGE], body, 100)["loras"] == [{"name": "soft"}]
