"""What every model family promises: a new one is added to the registry and to SAMPLES, and passes this suite."""

import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.loaders.single_file_utils import CHECKPOINT_KEY_NAMES
from safetensors.torch import load_file, save_file

from pipelines.core.errors import GenerationSuspended, UnsupportedModelError
from pipelines.core.geometry import Geometry
from pipelines.core.model import Lora, ModelSpec, WeightFile
from pipelines.core.precision import Precision
from pipelines.core.progress import Frames, VideoFile
from pipelines.core.request import VideoParams
from pipelines.hub.folder import check
from pipelines.loading.load import load_pipeline
from pipelines.loading.modules import skeleton
from pipelines.loading.single_file import SingleFile
from pipelines.models.family import InputUse, ModelFamily, PartKind
from pipelines.models.registry import FAMILIES, family_of
from pipelines.planning.layout import GIB, Layout, Machine, Residence
from pipelines.planning.planner import plan
from pipelines.runner.callbacks import NO_CALLBACKS, Callbacks
from pipelines.runner.runner import Runner
from pipelines.stages.checkpoint import Checkpoint
from pipelines.stages.conditioning.images import Images
from tests.pipelines.stages.conditioning.test_images import gradient
from tests.support.models.wan21 import wan21_folder
from tests.support.models.wan22 import a14b_folder, ti2v_5b_folder
from tests.support.models.wan_image import flf2v_folder, i2v_a14b_folder, i2v_folder
from tests.support.video import psnr

SAMPLES: dict[str, tuple[Callable[[Path], Path], ...]] = {
    "WanPipeline": (wan21_folder, a14b_folder, ti2v_5b_folder),
    "WanImageToVideoPipeline": (i2v_folder, flf2v_folder, i2v_a14b_folder),
}
"""Functions that write small weights of each family, one for each kind of model that it has."""

families = pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))


class Sample:
    """Small weights of a family."""

    def __init__(self, family: ModelFamily, folder: Path) -> None:
        self.family, self.folder = family, folder
        self.shape = family.read_shape(folder)
        self.spec = ModelSpec("sample", fps=16, pipeline_class=family.pipeline_class)

    @property
    def params(self) -> VideoParams:
        """The smallest video with more than one row, column and group of frames."""
        grid = self.shape.grid
        return VideoParams("an ox", "blurry", 2 * grid.height, 2 * grid.width, grid.temporal + 1, 3, 5.0, 7)

    @property
    def images(self) -> Images:
        """The images that a request must have."""
        inputs, size = self.family.images(self.shape), (self.params.width, self.params.height)
        first, last = (gradient(*size) if use is InputUse.REQUIRED else None for use in (inputs.first, inputs.last))
        return Images(first, last)

    def frames(self, runner: Runner) -> Frames:
        return runner.frames(self.params, self.images.first, self.images.last).frames

    def run(self, runner: Runner, path: Path, callbacks: Callbacks = NO_CALLBACKS) -> VideoFile:
        return runner.run(self.params, path, callbacks, self.images.first, self.images.last)


@pytest.fixture(scope="module", params=[(name, make) for name in SAMPLES for make in SAMPLES[name]])
def sample(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Sample:
    name, make = request.param
    return Sample(family_of(name), make(tmp_path_factory.mktemp("family") / "weights"))


@pytest.fixture(scope="module")
def runner(processor: str, sample: Sample) -> Runner:
    return Runner.load(sample.spec, sample.folder, "cpu")


def test_every_family_has_samples_and_its_own_name() -> None:
    assert set(SAMPLES) == set(FAMILIES)
    assert all(SAMPLES.values())
    assert all(family.pipeline_class == name for name, family in FAMILIES.items())


def test_an_unknown_class_is_refused_with_the_legal_ones() -> None:
    with pytest.raises(UnsupportedModelError, match=f"must be one of .*{min(FAMILIES)}.*, not 'FluxPipeline'"):
        family_of("FluxPipeline")


@families
def test_its_classes_exist_and_its_parts_are_the_pipelines(family: ModelFamily) -> None:
    pipeline = resolve_name(family.pipeline)
    required, optional = DiffusionPipeline._get_signature_keys(pipeline)

    assert issubclass(pipeline, DiffusionPipeline)
    assert family.components <= set(required) | set(optional) | set(pipeline._optional_components)
    assert {part.name for part in family.parts if part.is_optional} <= set(pipeline._optional_components)
    assert all(issubclass(resolve_name(part.model_class), torch.nn.Module) for part in family.parts)
    assert family.folder_classes
    assert "text" in family.inputs(None)
    assert (family.image_pipeline is not None) == ("image" in family.inputs(None))
    # a pipeline that makes videos only from images is the one for images
    assert (family.images(None).first is InputUse.REQUIRED) == (family.image_pipeline == family.pipeline)
    assert family.takes_video(None) == (family.images(None).first is not InputUse.REQUIRED)


@families
def test_it_has_a_denoiser_and_one_vae(family: ModelFamily) -> None:
    assert not family.denoisers[0].is_optional
    assert family.vae.kind is PartKind.VAE
    assert len({part.name for part in family.parts}) == len(family.parts)
    with pytest.raises(UnsupportedModelError, match=r"has no part nothing; it has .*vae"):
        family.part("nothing")


@families
def test_its_loop_can_be_interrupted_and_carries_what_a_checkpoint_saves(family: ModelFamily) -> None:
    pipeline = resolve_name(family.pipeline)

    assert isinstance(pipeline.interrupt, property)
    assert "latents" in family.loop_tensors
    assert set(family.loop_tensors) <= set(pipeline._callback_tensor_inputs)
    assert set(family.loop_tensors) <= set(inspect.signature(pipeline.__call__).parameters)


@families
def test_its_transformers_take_the_inputs_it_names(family: ModelFamily) -> None:
    for part in family.denoisers:
        inputs = set(inspect.signature(resolve_name(part.model_class).forward).parameters)
        assert {*family.repeated_inputs, family.text_input} <= inputs
    assert family.text_input not in family.repeated_inputs


@families
def test_its_single_files_and_loras_are_those_the_library_reads(family: ModelFamily) -> None:
    for layout in (part.single_file for part in family.parts if part.single_file is not None):
        assert layout.checkpoint in CHECKPOINT_KEY_NAMES
        assert callable(resolve_name(layout.converter))
    if any(part.takes_loras for part in family.parts):
        assert callable(resolve_name(family.pipeline).lora_state_dict)


def test_a_folder_has_the_components_it_names(sample: Sample) -> None:
    check(sample.folder, sample.family.pipeline_class)
    assert set(sample.family.read_index(sample.folder).components) <= sample.family.components


def test_its_shapes_are_those_of_the_real_modules(sample: Sample, runner: Runner) -> None:
    loaded, transformer = runner._loaded, sample.shape.transformer
    parameters = transformer.num_layers * transformer.block_parameters + transformer.other_parameters

    assert len(loaded.denoisers) == sample.shape.experts
    for model in loaded.denoisers:
        assert len(model.blocks) == transformer.num_layers
        assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert sum(parameter.numel() for parameter in loaded.vae.parameters()) == sample.shape.vae.parameters
    encoders = [getattr(loaded.pipe, part.name, None) for part in sample.family.parts if part.library == "transformers"]
    found = sum(parameter.numel() for each in encoders if each is not None for parameter in each.parameters())
    assert found == sample.shape.encoder_parameters


@torch.no_grad()
def test_a_transformer_takes_inputs_of_the_shapes_it_states(sample: Sample, runner: Runner) -> None:
    geometry = Geometry.fit(sample.params.width, sample.params.height, sample.params.num_frames, sample.shape.grid)
    shapes = sample.family.forward_inputs(sample.shape, geometry, text_tokens=7)
    seen: list[dict[str, torch.Size]] = []

    def note(_module: Any, _args: Any, inputs: dict[str, Any]) -> None:
        seen.append({name: value.shape for name, value in inputs.items() if isinstance(value, torch.Tensor)})

    for model in runner._loaded.denoisers:
        inputs = {name: torch.zeros(shape, dtype=model.dtype) for name, shape in shapes.items()}
        assert torch.isfinite(model(**inputs, return_dict=False)[0]).all()
    hooks = [model.register_forward_pre_hook(note, with_kwargs=True) for model in runner._loaded.denoisers]
    sample.frames(runner)
    for hook in hooks:
        hook.remove()

    # the loop itself calls it with no other shapes
    loop = sample.family.forward_inputs(sample.shape, geometry, text_tokens=sample.spec.max_sequence_length)
    assert seen
    assert all(each == loop for each in seen)


def test_a_configuration_that_lacks_a_field_is_refused_by_name(sample: Sample) -> None:
    with pytest.raises(UnsupportedModelError, match="configurations of the model's parts are incomplete"):
        sample.family.shape({part.name: {} for part in sample.family.parts})


def test_it_has_a_plan(sample: Sample) -> None:
    machine = Machine(8 * GIB, 32 * GIB, (8, 9))
    geometry = Geometry.fit(1280, 720, 81, sample.shape.grid)

    assert plan(sample.shape, geometry, machine).fits(machine)


def test_a_video_has_the_size_and_length_of_its_grid(sample: Sample, runner: Runner) -> None:
    frames = sample.frames(runner)

    assert frames.shape == (sample.params.num_frames, sample.params.height, sample.params.width, 3)


def test_streamed_parts_make_the_same_video(sample: Sample, runner: Runner, tmp_path: Path) -> None:
    layout = Layout(transformer=Residence.STREAMED, text_encoder=Residence.STREAMED, resident_blocks=1)
    streamed = Runner.load(sample.spec, sample.folder, "cpu", layout=layout, cache=tmp_path)

    assert (sample.frames(streamed) == sample.frames(runner)).all()


def test_batched_guidance_makes_nearly_the_same_video(sample: Sample, runner: Runner, tmp_path: Path) -> None:
    layout = Layout(Precision.BF16, batched=True)
    batched = Runner.load(sample.spec, sample.folder, "cpu", layout=layout, cache=tmp_path)

    one, other = (sample.run(each, tmp_path / "video.mp4").path.read_bytes() for each in (runner, batched))
    assert psnr(one, other) > 40


def test_a_suspended_generation_ends_in_the_same_video(sample: Sample, runner: Runner, tmp_path: Path) -> None:
    whole = sample.run(runner, tmp_path / "whole.mp4").path.read_bytes()
    path = tmp_path / "half.ckpt"

    with pytest.raises(GenerationSuspended):
        suspending = Checkpoint(path, 1000.0, suspended=lambda: True)
        sample.run(runner, tmp_path / "video.mp4", Callbacks(checkpoint=suspending))
    resumed = sample.run(runner, tmp_path / "video.mp4", Callbacks(checkpoint=Checkpoint(path, 1000.0)))

    assert resumed.stats.steps_computed == sample.params.num_inference_steps - 1
    assert resumed.path.read_bytes() == whole


def test_a_part_can_come_from_a_single_file(sample: Sample, tmp_path: Path) -> None:
    part = next(part for part in sample.family.parts if part.single_file is not None)
    shards = (load_file(shard) for shard in (sample.folder / part.name).glob("*.safetensors"))
    path = tmp_path / "tuned.safetensors"
    save_file({name: tensor.bfloat16() for shard in shards for name, tensor in shard.items()}, path)

    SingleFile(path, part).check(skeleton(resolve_name(part.model_class), sample.folder / part.name))
    assert SingleFile(path, part).measure().formats == ("bfloat16",)
    tuned = replace(sample.spec, files=(WeightFile(str(tmp_path), path.name, part.name),))
    assert load_pipeline(tuned, sample.folder, "cpu").fingerprint["files"].startswith(f"{part.name} tuned.safetensors/")
    save_file({"another.model": torch.zeros(1)}, path)
    assert part.single_file is not None
    with pytest.raises(UnsupportedModelError, match=f"has no weights of a {part.single_file.description}"):
        SingleFile(path, part).measure()


def test_a_lora_changes_the_part_it_is_for(sample: Sample, runner: Runner, tmp_path: Path) -> None:
    for part in (part for part in sample.family.parts if part.takes_loras):
        if not (sample.folder / part.name).is_dir():
            continue
        before = getattr(runner._loaded.pipe, part.name)
        name, layer = next(
            (name, layer) for name, layer in before.blocks.named_modules() if isinstance(layer, torch.nn.Linear)
        )
        factors = {"lora_A": torch.ones(1, layer.in_features), "lora_B": torch.ones(layer.out_features, 1)}
        save_file(
            {f"transformer.blocks.{name}.{factor}.weight": tensor for factor, tensor in factors.items()},
            tmp_path / "lora.safetensors",
        )

        tuned = replace(sample.spec, loras=(Lora(str(tmp_path), "lora.safetensors", part.name),))
        after = getattr(load_pipeline(tuned, sample.folder, "cpu").pipe, part.name)

        changed = after.blocks.get_submodule(name).weight
        torch.testing.assert_close(changed, layer.weight + 1, atol=0.01, rtol=0.01)


def test_a_part_without_a_layout_for_single_files_is_refused(sample: Sample, tmp_path: Path) -> None:
    part = next(part for part in sample.family.parts if part.single_file is None)
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")

    with pytest.raises(UnsupportedModelError, match=f"cannot replace {part.name}"):
        SingleFile(tmp_path / "a.safetensors", part).measure()
