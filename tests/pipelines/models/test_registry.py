"""A second family is loaded, planned and run by what it says, and by nothing else."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import WanPipeline, WanTransformer3DModel

from pipelines.core.errors import GenerationSuspended, UnsupportedModelError
from pipelines.core.model import ModelSpec
from pipelines.core.precision import Accuracy
from pipelines.core.request import VideoParams
from pipelines.hub.folder import check
from pipelines.models.family import Part, PartKind
from pipelines.models.registry import FAMILIES
from pipelines.models.wan import WanTextToVideo
from pipelines.planning.layout import Layout, Residence
from pipelines.runner.callbacks import Callbacks
from pipelines.runner.runner import Runner
from pipelines.stages.checkpoint import Checkpoint

PARAMS = VideoParams("an ox by a lake", " ", 64, 96, 9, 4, 5.0, 7)
SPEC = ModelSpec("other", fps=16, pipeline_class="OtherPipeline")


class OtherTransformer(WanTransformer3DModel):
    """A transformer of the second family."""

    noted: tuple[Accuracy, int]


class OtherPipeline(WanPipeline):
    """A pipeline of the second family."""


def use_activations(model: OtherTransformer, accuracy: Accuracy, slice_tokens: int) -> None:
    """Note what a transformer of the second family would compute by."""
    model.noted = (accuracy, slice_tokens)


class OtherFamily(WanTextToVideo):
    """Wan under other names, which carries one more tensor from step to step, and makes larger multiples."""

    pipeline_class = "OtherPipeline"
    folder_classes = frozenset({"OtherPipeline", "WanPipeline"})
    pipeline = f"{__name__}:OtherPipeline"
    parts = tuple(
        Part(part.name, part.kind, f"{__name__}:OtherTransformer", part.is_optional, part.single_file)
        if part.kind is PartKind.DENOISER
        else part
        for part in WanTextToVideo.parts
    )
    side_multiple = 32
    loop_tensors = ("latents", "prompt_embeds")
    activations = f"{__name__}:use_activations"


@pytest.fixture(autouse=True)
def other_family(monkeypatch: pytest.MonkeyPatch) -> OtherFamily:
    family = OtherFamily()
    monkeypatch.setitem(FAMILIES, family.pipeline_class, family)
    return family


@pytest.fixture
def folder(wan21: Path, tmp_path: Path) -> Path:
    """The small Wan2.1 under the second family's name."""
    folder = Path(shutil.copytree(wan21, tmp_path / "other"))
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"_class_name": "OtherPipeline"}))
    return folder


def test_load_uses_the_classes_and_the_grid_of_the_family(
    other_family: OtherFamily, folder: Path, wan21_runner: Runner, tmp_path: Path
) -> None:
    runner = Runner.load(SPEC, folder, "cpu")
    loaded = runner._loaded

    assert loaded.family is other_family
    assert isinstance(loaded.pipe, OtherPipeline)
    assert type(loaded.pipe.transformer) is OtherTransformer
    assert loaded.pipe.transformer.noted == (Accuracy.HIGH, 0)
    assert (loaded.grid.height, loaded.grid.width) == (32, 32)
    # the arithmetic is Wan's
    made = runner.run(PARAMS, tmp_path / "video.mp4").path.read_bytes()
    assert made == wan21_runner.run(PARAMS, tmp_path / "video.mp4").path.read_bytes()


def test_a_checkpoint_saves_what_the_family_carries(folder: Path, tmp_path: Path) -> None:
    runner, path = Runner.load(SPEC, folder, "cpu"), tmp_path / "half.ckpt"
    whole = runner.run(PARAMS, tmp_path / "whole.mp4").path.read_bytes()

    with pytest.raises(GenerationSuspended):
        suspending = Checkpoint(path, 1000.0, suspended=lambda: True)
        runner.run(PARAMS, tmp_path / "video.mp4", Callbacks(checkpoint=suspending))
    state = Checkpoint(path, 1000.0).load(runner._latents_depend_on(runner._effective(PARAMS)))
    resumed = runner.run(PARAMS, tmp_path / "video.mp4", Callbacks(checkpoint=Checkpoint(path, 1000.0)))

    assert state is not None
    assert list(state.tensors) == ["prompt_embeds"]
    assert torch.equal(state.tensors["prompt_embeds"], runner._stages._prompts.encode(PARAMS.prompt))
    assert resumed.path.read_bytes() == whole


def test_streaming_and_guidance_find_the_familys_parts(folder: Path, tmp_path: Path) -> None:
    layout = Layout(transformer=Residence.STREAMED, text_encoder=Residence.STREAMED, batched=True)
    runner = Runner.load(SPEC, folder, "cpu", layout=layout, cache=tmp_path)
    batches: list[int] = []
    runner._loaded.denoisers[0].patch_embedding.register_forward_pre_hook(
        lambda _, inputs: batches.append(len(inputs[0]))
    )

    runner.frames(PARAMS)

    assert batches == [2] * PARAMS.num_inference_steps


def test_a_folder_of_another_class_is_refused(folder: Path, wan21: Path) -> None:
    # the second family takes Wan's folders as well, and not the other way round
    check(wan21, "OtherPipeline")
    with pytest.raises(UnsupportedModelError, match="is a OtherPipeline, but the model's file says WanPipeline"):
        check(folder, "WanPipeline")


def test_a_class_without_a_family_is_refused_at_the_load(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(FAMILIES, "OtherPipeline")

    with pytest.raises(UnsupportedModelError, match=r"must be one of .*WanPipeline, not 'OtherPipeline'"):
        Runner.load(SPEC, folder, "cpu")
