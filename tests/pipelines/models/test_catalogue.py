"""The catalogue of models, and the errors for malformed files."""

import re
import tomllib
from pathlib import Path

import pytest

from pipelines.core.errors import CatalogueError
from pipelines.core.model import NoiseSchedule, OptionalLora, StepTolerances, WeightFile
from pipelines.core.request import Sampler
from pipelines.models.catalogue import BUILT_IN, _File, read_catalogue, read_entry

ROOT = Path(__file__).parents[3]

MINIMAL = """
[api]
id = "mine"
display_name = "Mine"
summary = "A model"
description = "A model of mine."
created = 1
owned_by = "me"
developer = { name = "me", display_name = "Me" }
parameters = [
  { name = "prompt", type = "string", title = "", description = "" },
  { name = "negative_prompt", type = "string", title = "", description = "", default = " " },
  { name = "height", type = "integer", title = "", description = "", default = 480, minimum = 1, maximum = 720 },
  { name = "width", type = "integer", title = "", description = "", default = 832, minimum = 1, maximum = 1280 },
  { name = "num_frames", type = "integer", title = "", description = "", default = 81, minimum = 1, maximum = 120 },
  { name = "num_inference_steps", type = "integer", title = "", description = "", default = 9, minimum = 1,maximum = 9},
  { name = "guidance_scale", type = "number", title = "", description = "", default = 5.0, minimum = 0, maximum = 10 },
  { name = "seed", type = "integer", title = "", description = "" },
]
[model]
repo = "me/mine"
fps = 16
"""


def test_the_built_in_catalogue_has_the_14b_model() -> None:
    entry = read_catalogue()["wan-ai-wan2-1-t2v-14b-diffusers"]

    assert entry.model.repo == "Wan-AI/Wan2.1-T2V-14B-Diffusers"
    assert entry.model.fps == 16
    assert entry.api.by_name["num_frames"].maximum == 120


def test_the_largest_video_keeps_to_the_pixels_of_a_model() -> None:
    entry = read_catalogue()["wan-ai-wan2-1-i2v-14b-720p-diffusers"]

    assert entry.api.size("maximum")[:2] == (1280, 720)
    assert entry.api.by_name["height"].maximum == 1280
    assert entry.api.request_schema["x-max-pixels"] == 1280 * 720


def test_the_default_size_is_within_the_pixels_of_a_model(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(MINIMAL.replace('id = "mine"', 'id = "mine"\nmax_pixels = 399359'))

    with pytest.raises(CatalogueError, match="max_pixels: the default size has more"):
        read_entry(path)


@pytest.mark.parametrize("named", ["nobody", "wan-ai-wan2-1-t2v-1-3b-diffusers"])
def test_an_image_model_must_take_images(named: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(f'{MINIMAL}[image_model]\n480p = "{named}"\n720p = "{named}"\n')

    with pytest.raises(CatalogueError, match=f"^mine: image_model: no model {named} takes an image$"):
        read_catalogue([BUILT_IN, tmp_path])


def test_a_users_folder_adds_models_and_replaces_those_of_the_same_id(tmp_path: Path) -> None:
    before = read_catalogue()
    built_in = next(iter(before))
    (tmp_path / "mine.toml").write_text(MINIMAL)
    (tmp_path / "other.toml").write_text(MINIMAL.replace('"mine"', f'"{built_in}"').replace("me/mine", "me/tuned"))

    catalogue = read_catalogue([BUILT_IN, tmp_path])

    assert set(catalogue) == {*before, "mine"}
    assert catalogue[built_in].model.repo == "me/tuned"


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ("fps = 16", "fps = 0", r"model\.fps: .*greater than or equal to 1"),
        ("fps = 16", 'fps = "16"', r"model\.fps: .*valid integer"),
        ("created = 1", "", r"api\.created: Field required"),
        (
            "created = 1",
            'created = 1\ninput = ["text", "sound"]',
            r"api\.input: these weights of WanPipeline take image, text, not sound",
        ),
        ("created = 1", "created = 1\nprice = 3", r"api\.price: Extra inputs"),
        ("[model]", "[model", "Expected ']'"),
        ("fps = 16", "fps = 16\nflow_shift = { 480p = 3.0 }", r"model\.flow_shift: .*at least 2"),
        (
            "fps = 16",
            'fps = 16\nfiles.transformer = { repo = "me/mine", file = "x.bin" }',
            r"model\.files\.transformer: .*must be a \.gguf or a \.safetensors file",
        ),
        (
            "fps = 16",
            'fps = 16\nfiles.vae = { repo = "me/mine", file = "x.gguf" }',
            r"model: .*files: the part must be one of transformer, transformer_2, not vae",
        ),
        (
            "fps = 16",
            "fps = 16\nguidance_interval = [0.9, 0.2]",
            r"model: .*guidance_interval must start with the lower noise level",
        ),
        (
            "fps = 16",
            "fps = 16\nguidance_interval = [0.2, 1.1]",
            r"model\.guidance_interval\.1: .*less than or equal to 1",
        ),
        (
            "fps = 16",
            'fps = 16\nloras = [{ repo = "me/mine", file = "x.safetensors", part = "text_encoder" }]',
            r"model: .*loras: the part must be one of transformer, transformer_2, not text_encoder",
        ),
        (
            "fps = 16",
            'fps = 16\nfast = { flow_shift = 5.0, loras = [{ repo = "me", file = "x.safetensors", part = "vae" }] }',
            r"model: .*loras: the part must be one of transformer, transformer_2, not vae",
        ),
        *(
            ("fps = 16", f'fps = 16\noptional_loras = [{{ repo = "me", file = "x.safetensors", {keys} }}]', complaint)
            for keys, complaint in (
                ('name = "x", part = "vae"', "optional_loras: the part must be one of transformer, transformer_2"),
                ('name = "x", strength = 0', r"model\.optional_loras\.0\.strength: .*must not be 0"),
                ('name = "x", strength = 4.5', r"model\.optional_loras\.0\.strength: .*less than or equal to 4"),
                ('name = "../x"', r"model\.optional_loras\.0\.name: .*must be at most 128 letters"),
            )
        ),
        (
            "fps = 16",
            'fps = 16\noptional_loras = [{ name = "x", repo = "me", file = "a.safetensors" }, '
            '{ name = "x", repo = "me", file = "b.safetensors", part = "transformer" }]',
            "optional_loras: x has several entries for the same part",
        ),
        (
            "fps = 16",
            'fps = 16\noptional_loras = [{ name = "x", repo = "me", file = "a.safetensors", part = "transformer" }, '
            '{ name = "x", repo = "me", file = "b.safetensors", part = "transformer_2", strength = 2 }]',
            "optional_loras: the entries of x must have the same strength",
        ),
        (
            "fps = 16",
            'fps = 16\npipeline_class = "FluxPipeline"',
            r"model\.pipeline_class: .*must be one of WanImageToVideoPipeline, WanPipeline, not 'FluxPipeline'",
        ),
        (
            "fps = 16",
            'fps = 16\npipeline_class = "WanImageToVideoPipeline"',
            "api.input: must have image, which WanImageToVideoPipeline needs",
        ),
        ("fps = 16", "fps = 16\nstep_cache = { balanced = 0.1 }", r"model\.step_cache\.fast: .*required"),
        ("fps = 16", "fps = 16\nstep_cache = { balanced = -1, fast = 1 }", r"model\.step_cache\.balanced: .*greater"),
        ("fps = 16", 'fps = 16\nlatent_rgb = "wan3"', r"model: .*latent_rgb must be one of wan2\.1, wan2\.2"),
        ('name = "width"', 'name = "breadth"', "width is required, with the type integer"),
        ("default = 480, ", "", "height must have a default"),
        ("minimum = 1, maximum = 120", "minimum = 1", "num_frames must have a minimum and a maximum"),
        (
            'default = " " }',
            'default = " ", minimum = 1 }',
            "only an integer or a number has a minimum",
        ),
    ],
)
def test_a_malformed_file_is_named_with_the_key_at_fault(
    tmp_path: Path, before: str, after: str, complaint: str
) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(MINIMAL.replace(before, after))

    with pytest.raises(CatalogueError, match=complaint) as caught:
        read_entry(path)
    assert str(path) in str(caught.value)


def test_single_files_are_listed_by_component(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(
        MINIMAL
        + """
[model.files.transformer]
repo = "you/tuned"
file = "high/tuned-Q4_K_M.gguf"
revision = "v2"

[model.files.transformer_2]
repo = "/data/tuned"
file = "low.safetensors"
"""
    )

    assert read_entry(tmp_path / "mine.toml").model.files == (
        WeightFile("you/tuned", "high/tuned-Q4_K_M.gguf", "transformer", "v2"),
        WeightFile("/data/tuned", "low.safetensors", "transformer_2"),
    )


def test_optional_loras_have_names(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(
        MINIMAL
        + """
[[model.optional_loras]]
name = "Ghibli style"
repo = "you/ghibli"
file = "high.safetensors"
part = "transformer"
strength = -0.5
description = "hand-drawn"

[[model.optional_loras]]
name = "Ghibli style"
repo = "you/ghibli"
file = "low.safetensors"
part = "transformer_2"
revision = "v2"
strength = -0.5
"""
    )

    spec = read_entry(tmp_path / "mine.toml").model
    assert spec.optional_loras == (
        OptionalLora("Ghibli style", "you/ghibli", "high.safetensors", "transformer", None, -0.5, "hand-drawn"),
        OptionalLora("Ghibli style", "you/ghibli", "low.safetensors", "transformer_2", "v2", -0.5),
    )
    assert spec.for_other_weights().optional_loras == ()


def test_the_examples_in_the_docs_are_changes_of_a_built_in_file(tmp_path: Path) -> None:
    examples = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "models.md").read_text(), re.DOTALL)
    built_in = tomllib.loads((BUILT_IN / "wan2.1-t2v-14b.toml").read_text())
    specs = []
    for example in map(tomllib.loads, examples):
        changed = {table: built_in[table] | example.get(table, {}) for table in ("api", "model")}
        table = _File.model_validate(changed)
        specs.append(table.model.spec(table.api.id, ()))

    assert [(spec.id, len(spec.loras), len(spec.files)) for spec in specs] == [
        ("oil-paintings", 1, 0),
        ("wan-14b-q4", 0, 1),
        *[(built_in["api"]["id"], 0, 0)] * 3,
    ]
    assert [(lora.name, lora.strength) for lora in specs[2].optional_loras] == [("watercolor", 0.8)]
    assert (specs[3].sampler, specs[3].schedule) == (Sampler.UNIPC, NoiseSchedule.WAN)
    assert specs[4].guidance_interval == (0.2, 0.9)
    assert specs[4].step_cache == StepTolerances(0.025, 0.05)
    assert specs[0].guidance_interval == (0.0, 1.0)


def test_the_built_in_models_sample_as_their_authors_do() -> None:
    models = {id_: entry.model for id_, entry in read_catalogue().items()}

    assert {id_: tuple((model.flow_shift or {}).values()) for id_, model in models.items()} == {
        "wan-ai-wan2-1-t2v-14b-diffusers": (3.0, 5.0),
        "wan-ai-wan2-1-t2v-1-3b-diffusers": (8.0, 8.0),
        "wan-ai-wan2-2-t2v-a14b-diffusers": (12.0, 12.0),
        "wan-ai-wan2-2-ti2v-5b-diffusers": (5.0, 5.0),
        "wan-ai-wan2-1-i2v-14b-480p-diffusers": (3.0, 5.0),
        "wan-ai-wan2-1-i2v-14b-720p-diffusers": (3.0, 5.0),
        "wan-ai-wan2-1-flf2v-14b-720p-diffusers": (16.0, 16.0),
        "wan-ai-wan2-2-i2v-a14b-diffusers": (5.0, 5.0),
    }
    assert {
        id_: tuple(entry.api.by_name[name].default for name in ("num_inference_steps", "guidance_scale", "num_frames"))
        for id_, entry in read_catalogue().items()
        if entry.model.pipeline_class == "WanImageToVideoPipeline"
    } == {
        "wan-ai-wan2-1-i2v-14b-480p-diffusers": (40, 5.0, 81),
        "wan-ai-wan2-1-i2v-14b-720p-diffusers": (40, 5.0, 81),
        "wan-ai-wan2-1-flf2v-14b-720p-diffusers": (50, 5.0, 81),
        "wan-ai-wan2-2-i2v-a14b-diffusers": (40, 3.5, 81),
    }
    fast = models["wan-ai-wan2-2-t2v-a14b-diffusers"].variant(fast=True)
    assert fast.flow_shift == {"480p": 5.0, "720p": 5.0}
    assert {(model.sampler, model.schedule) for model in models.values()} == {(Sampler.UNIPC, NoiseSchedule.WAN)}
    # the shifts belong to the weights
    assert fast.for_other_weights().flow_shift is None


def test_models_with_the_same_vae_share_a_latent_rgb_map(tmp_path: Path) -> None:
    maps = {id_: entry.model.latent_rgb for id_, entry in read_catalogue().items()}

    channels = {id_: latent_rgb and len(latent_rgb.factors) for id_, latent_rgb in maps.items()}
    shapes = {id_: entry.model.shape for id_, entry in read_catalogue().items()}
    assert channels == {id_: shape and shape["transformer"]["out_channels"] for id_, shape in shapes.items()}
    of_the_14b = maps["wan-ai-wan2-1-t2v-14b-diffusers"]
    assert of_the_14b is not None
    assert of_the_14b.factors[2] == (0.3568, 0.2548, 0.1747)
    assert of_the_14b.bias == (-0.1835, -0.0868, -0.336)
    assert maps["wan-ai-wan2-2-t2v-a14b-diffusers"] == of_the_14b
    (tmp_path / "mine.toml").write_text(MINIMAL)
    assert read_entry(tmp_path / "mine.toml").model.latent_rgb is None


def test_two_files_of_a_folder_may_not_share_an_id(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(MINIMAL)
    (tmp_path / "b.toml").write_text(MINIMAL)

    with pytest.raises(CatalogueError, match=r"b\.toml: a\.toml has the same id, mine"):
        read_catalogue([tmp_path])


def test_a_missing_or_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match="no such folder"):
        read_catalogue([tmp_path / "missing"])
    with pytest.raises(CatalogueError, match="no model file"):
        read_catalogue([tmp_path])
