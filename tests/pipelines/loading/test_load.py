"""Loading a folder: progress, fingerprint, dtype and plans."""

from pathlib import Path

import diffusers
import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel

from pipelines.core.errors import HostMemoryError, WeightsNotFoundError
from pipelines.core.geometry import Geometry, Grid
from pipelines.core.model import ModelSpec
from pipelines.loading.device_plan import check_host_memory, choose_plan
from pipelines.loading.load import load_pipeline
from pipelines.models.catalogue import read_catalogue
from pipelines.models.registry import family_of
from pipelines.planning.layout import GIB, Machine
from pipelines.planning.planner import plan

WAN = family_of("WanPipeline")
SPEC = ModelSpec("wan21", fps=16)


def test_loading_reports_each_part_and_ends_ready(wan21: Path) -> None:
    told: list[tuple[str, float]] = []

    loaded = load_pipeline(SPEC, wan21, "cpu", lambda component, fraction: told.append((component, fraction)))

    assert list(dict.fromkeys(component for component, _ in told)) == ["transformer", "text_encoder", "vae", "ready"]
    fractions = [fraction for _, fraction in told]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)
    assert loaded.grid == Grid(height=16, width=16, temporal=4)


def test_the_fingerprint_has_what_a_video_depends_on(wan21: Path) -> None:
    fingerprint = load_pipeline(SPEC, wan21, "cpu").fingerprint

    assert fingerprint["torch"] == torch.__version__
    assert fingerprint["diffusers"] == diffusers.__version__
    assert fingerprint["dtype"] in ("bfloat16", "float32")
    assert fingerprint["device"] == "cpu"


def test_the_cpus_units_decide_the_dtype(wan21: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for has_bf16, dtype in ((False, torch.float32), (True, torch.bfloat16)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has_bf16=has_bf16: {"avx512_bf16": has_bf16})
        pipe = load_pipeline(SPEC, wan21, "cpu").pipe
        assert pipe.transformer.dtype == pipe.vae.dtype == pipe.text_encoder.dtype == dtype


@pytest.mark.parametrize(
    ("card", "fitting", "warnings"), [(80, (1280, 720, 120), 0), (8, (832, 480, 81), 1), (4, None, 2)]
)
def test_a_gpu_too_small_for_the_largest_video_is_planned_for_the_usual_one(
    card: int, fitting: tuple[int, int, int] | None, warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    entry = read_catalogue()["wan-ai-wan2-1-t2v-14b-diffusers"]
    assert entry.model.shape is not None
    shape, sizes = WAN.shape(entry.model.shape), entry.model.sizes
    assert sizes == ((1280, 720, 120), (832, 480, 81))
    machine = Machine((card - 1) * GIB, 64 * GIB, (8, 9))

    chosen = choose_plan(shape, sizes, machine)

    assert chosen == plan(shape, Geometry.fit(*(fitting or sizes[-1]), shape.grid), machine)
    assert chosen.fits(machine) is (fitting is not None)
    assert len(caplog.records) == warnings


def test_an_incomplete_folder_is_refused_before_any_weights_are_read(tmp_path: Path) -> None:
    with pytest.raises(WeightsNotFoundError):
        load_pipeline(SPEC, tmp_path, "cpu", lambda *_: pytest.fail("nothing should be read"))


def test_the_real_model_has_the_published_shapes() -> None:
    with torch.device("meta"):
        transformer, vae = WanTransformer3DModel(), AutoencoderKLWan()

    assert sum(p.numel() for p in transformer.parameters()) == 14_288_491_584
    assert sum(p.numel() for p in vae.parameters()) == 126_892_531
    assert Grid.of(
        vae.config.scale_factor_spatial, transformer.config.patch_size[1:], vae.config.scale_factor_temporal, 16
    ) == Grid(height=16, width=16, temporal=4)


def test_too_little_host_memory_for_any_plan_is_an_error() -> None:
    entry = read_catalogue()["wan-ai-wan2-1-t2v-14b-diffusers"]
    assert entry.model.shape is not None
    shape, machine = WAN.shape(entry.model.shape), Machine(23 * GIB, 4 * GIB, (8, 9))
    chosen = choose_plan(shape, entry.model.sizes, machine)

    with pytest.raises(HostMemoryError, match=r"needs [5-9]\.\d GiB of host memory, and 4\.0 GiB is free"):
        check_host_memory(chosen, machine)

    roomy = Machine(4 * GIB, 64 * GIB, (8, 9))
    check_host_memory(choose_plan(shape, entry.model.sizes, roomy), roomy)
