"""`paddock plan`: on any machine, for any GPU."""

import json
import re
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType as Type
from safetensors.torch import load_file

from pipelines.models.catalogue import read_entry
from server.cli.plan import PlanRefusedError, for_model, machine, minutes, parse_gb, shape_of
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


def test_a_plan_that_does_not_fit_exits_with_1_and_says_what_would(typed: Typed) -> None:
    ended = typed("plan", "--vram", "4", "--ram", "16", "--precision", "bf16")

    assert ended.returncode == 1
    assert "text encoder" in ended.stdout
    assert "It needs" in ended.stdout
    assert "It would fit on a GPU with" in ended.stdout
    assert "About" not in ended.stdout


def test_each_change_that_is_named_makes_it_fit(typed: Typed) -> None:
    args = ["plan", "--vram", "5", "--ram", "16", "--precision", "bf16", "--frames", "81"]
    sentences = json.loads(typed(*args, "--json").stdout)["would_fit"]
    options = [found[1].split() for sentence in sentences if (found := re.search(r"give (--.+)\.$", sentence))]
    gpus = [found[1] for sentence in sentences if (found := re.search(r"GPU with (\d+) GB\.$", sentence))]

    assert [option for option, _ in options][:2] == ["--size", "--frames"]
    for changes in [*options, *(["--vram", gpu] for gpu in gpus)]:
        assert typed(*args, *changes).returncode == 0, changes


def test_minutes_are_estimated_for_a_card_and_say_what_they_assume(typed: Typed) -> None:
    ended = typed("plan", "--card", "rtx3060", "--ram", "32 GiB", "--size", "480p", "--steps", "8")

    assert ended.returncode == 0, ended.stderr
    assert re.search(
        r"^About \d+ to \d+ min for 832x480, 81 frames, 8 steps on an RTX 3060 12GB\.$", ended.stdout, re.M
    )
    assert "Estimated: this card has not been measured. Scaled from a measured H200" in ended.stdout
    both = json.loads(typed("plan", "--card", "h200", "--ram", "64", "--json").stdout)
    assert [(made["size"], made["steps"]) for made in both["estimates"]] == [("1280x720", 16), ("832x480", 16)]
    assert all(made["assumes"] for made in both["estimates"])
    unknown = typed("plan", "--vram", "24GB", "--ram", "64").stdout
    assert "Minutes are estimated for a known card: name one with --card" in unknown
    assert "About" not in unknown


@pytest.mark.parametrize(
    ("written", "size"), [("12", 12.0), ("12GB", 12.0), ("12 GiB", 12.0), ("0.5T", 512.0), ("8192 MiB", 8.0)]
)
def test_memory_is_written_with_or_without_a_unit(written: str, size: float) -> None:
    assert parse_gb("vram", written) == size


@pytest.mark.parametrize(("seconds", "shown"), [((88, 120), "1.5 to 2.0 min"), ((2760, 4500), "46 to 75 min")])
def test_minutes_are_a_range(seconds: tuple[float, float], shown: str) -> None:
    assert minutes(*seconds) == shown


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--vram", "0"], "vram must be a number of GB above 0"),
        (["--vram", "nan"], "vram must be a number of GB above 0"),
        (["--vram", "24", "--ram", "inf"], "ram must be a number of GB above 0"),
        (["--vram", "12 apples"], "vram must be a number of GB above 0 and at most 1000000, such as 12, 12GB or"),
        (["--vram", "8", "--size", "big"], "size must be WIDTHxHEIGHT"),
        (["--vram", "8", "--size", "1282x720"], "width must be from 1 to 1280 for wan-ai-wan2-1-t2v-14b-diffusers"),
        (["--vram", "8", "--size", "1280x0"], "size must be WIDTHxHEIGHT"),
        (["--vram", "8", "--frames", "121"], "frames must be from 1 to 120"),
        (["--vram", "8", "--steps", "0"], "steps must be from 1 to 100"),
        (["--card", "RTX 3061"], "Similar names: RTX 3060"),
        (["--vram", "8", "--capability", "new"], "capability must be two numbers"),
        (["--vram", "8", "--model", "nope"], "Model not found: nope"),
        ([], "This machine has no CUDA device: name the card to plan for, such as --card 'RTX 3060 12GB'"),
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
        shape_of(read_entry(quantized_model(tmp_path / name, more))) for name, more in (("a", ""), ("b", loras))
    )

    (before,), (after,) = plain.quantized, tuned.quantized
    # rank 2, in bf16, beside the only quantized matrix
    assert [new - old for old, new in zip(before.blocks, after.blocks, strict=True)] == [2 * (256 + 256) * 2, 0]
    assert after.converted - before.converted == 2 * (256 + 256) * 2
