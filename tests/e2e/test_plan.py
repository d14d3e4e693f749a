"""`paddock plan`: on any machine, for any GPU."""

import json
import re
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType as Type
from safetensors.torch import load_file

from pipelines.models.catalogue import read_entry
from server.cli.plan import PlanRefusedError, _shape, for_model, machine
from tests.support.command_line import Typed
from tests.support.models.loras import write_lora
from tests.support.models.wan_files import by_original_names, wide_folder, write_gguf
from tests.support.server_process import model_on

ROOT = Path(__file__).parents[2]
PRECISIONS: tuple[tuple[tuple[str, ...], dict[str, str]], ...] = (
    (("--precision", "fp8"), {}),
    ((), {"PADDOCK_PRECISION": "fp8"}),
)


def test_a_plan_for_a_given_gpu_is_one_json_object(typed: Typed) -> None:
    args = ("plan", "--vram", "24", "--ram", "64", "--size", "832x480", "--json")
    ended = typed(*args)

    assert ended.returncode == 0, ended.stderr
    plan = json.loads(ended.stdout)
    assert plan["fits"] is True
    assert 0 < plan["device_peak_gib"] < 24
    assert 0 < plan["host_peak_gib"] < 64
    assert plan["relative_seconds_per_step"] >= 1
    assert all(made["choice"] and made["reason"] for made in plan["choices"].values())


def test_a_plan_follows_the_precision(typed: Typed) -> None:
    args = ("plan", "--vram", "80", "--ram", "64", "--capability", "9.0", "--size", "832x480", "--json")
    option, variable = (typed(*args, *more, **env) for more, env in PRECISIONS)

    for ended in (option, variable):
        assert ended.returncode == 0, ended.stderr
        plan = json.loads(ended.stdout)
        assert plan["choices"]["transformer weights"] == {"choice": "fp8 matmuls", "reason": "as configured: fp8"}
        assert plan["relative_seconds_per_step"] < 1
    assert json.loads(typed(*args).stdout)["choices"]["transformer weights"]["choice"] == "bf16"


def test_a_plan_follows_the_accuracy(typed: Typed) -> None:
    args = ("plan", "--vram", "8", "--ram", "32", "--size", "1280x720", "--json")
    high, standard = (json.loads(typed(*args, *more).stdout) for more in ([], ["--accuracy", "standard"]))

    assert (high["fits"], standard["fits"]) == (True, True)
    assert (high["choices"]["residual stream"]["choice"], high["choices"]["VAE"]["choice"][:4]) == ("fp32", "fp32")
    assert standard["choices"]["residual stream"]["reason"] == "as configured: accuracy = standard"
    assert standard["choices"]["VAE"]["choice"].startswith("bf16")
    assert high["choices"]["activations"] == standard["choices"]["activations"]
    assert high["choices"]["activations"]["choice"] == "slices of 4096 tokens"


def test_a_plan_is_a_table_for_people(typed: Typed) -> None:
    shown = typed("plan", "--vram", "4", "--ram", "16").stdout

    assert "text encoder" in shown
    assert "It needs" in shown


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--vram", "0"], "vram must be a number of GB above 0"),
        (["--vram", "nan"], "vram must be a number of GB above 0"),
        (["--vram", "24", "--ram", "inf"], "ram must be a number of GB above 0"),
        (["--vram", "8", "--size", "big"], "size must be WIDTHxHEIGHT"),
        (["--vram", "8", "--capability", "new"], "capability must be two numbers"),
        (["--vram", "8", "--model", "nope"], "Model not found: nope"),
        ([], "This machine has no CUDA device"),
    ],
)
def test_wrong_options_are_refused_with_a_sentence(typed: Typed, args: list[str], sentence: str) -> None:
    ended = typed("plan", *args, CUDA_VISIBLE_DEVICES="")

    assert ended.returncode == 2
    assert sentence in ended.stderr


def test_the_table_in_the_docs_is_the_printed_one(typed: Typed) -> None:
    shown = typed("plan", "--table").stdout

    assert shown.count("| 832x480 |") == shown.count("| 1280x720 |") == 21
    assert (ROOT / "docs" / "plans.md").read_text().endswith(shown)


def quantized_model(tmp_path: Path, loras: str = "") -> Path:
    """A model's file with a quantized weight file, and with LoRAs."""
    folder = wide_folder(tmp_path / "weights")
    state = load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")
    write_gguf(tmp_path / "tuned-Q8_0.gguf", by_original_names(state), {"blocks.0.ffn.0.weight": Type.Q8_0})
    models = model_on(folder, tmp_path)
    text = re.sub(r"\n\[model\.shape.*", "", (models / "mine.toml").read_text(), flags=re.DOTALL)
    named = f'[model.files.transformer]\nrepo = "{tmp_path}"\nfile = "tuned-Q8_0.gguf"\n'
    (models / "mine.toml").write_text(f"{text}\n{named}{loras}")
    return models / "mine.toml"


def test_a_quantized_file_is_planned_unchanged(tmp_path: Path) -> None:
    entry, on = read_entry(quantized_model(tmp_path)), machine(8, 16, "8.9")

    chosen = for_model(entry, "832x480", 81, on)

    assert chosen["choices"]["transformer weights"] == {
        "choice": "GGUF",
        "reason": "tuned-Q8_0.gguf (Q8_0, float32): already quantized, used as it is",
    }
    (tmp_path / "tuned-Q8_0.gguf").unlink()
    with pytest.raises(PlanRefusedError, match=r"No tuned-Q8_0\.gguf of .* Download it with `paddock pull --model wan"):
        for_model(entry, "832x480", 81, on)


def test_loras_beside_quantized_matrices_are_planned_for(tmp_path: Path) -> None:
    write_lora(tmp_path / "x.safetensors", 256, ("blocks.0.ffn.net.0.proj", "blocks.0.attn1.to_q"))
    loras = f'[[model.loras]]\nrepo = "{tmp_path}"\nfile = "x.safetensors"\n'
    plain, tuned = (
        _shape(read_entry(quantized_model(tmp_path / name, more))) for name, more in (("a", ""), ("b", loras))
    )

    (before,), (after,) = plain.quantized, tuned.quantized
    # rank 2, in bf16, beside the only quantized matrix
    assert [new - old for old, new in zip(before.blocks, after.blocks, strict=True)] == [2 * (256 + 256) * 2, 0]
    assert after.converted - before.converted == 2 * (256 + 256) * 2
