"""Memory and time of the 14B model on a GPU, by diffusers and by our plans.

python -m benchmarks.gpu --records FILE.jsonl

No weights are needed: the pipeline has the published shapes and random weights, and no time depends on their values.
The most useful cases come first, at 480p and then at 720p, with 81 frames and guidance:

- `plain`: diffusers as in its documentation: bf16, the VAE in fp32, all parts on the GPU;
- `ours`: our plan for the whole GPU;
- `fp8`, `int8`: the same with that `precision`, in which the blocks' matrices are multiplied;
- `fp8-attention`: fp8, and `attention = "fp8"`;
- `fp8-attention-video`: the same for whole videos, from prompt to file: with 16 steps, all computed; with 16 steps, as
  few computed as the step cache allows (trained weights are between the two); and with 4 steps without guidance, as
  distilled weights need;
- `24gb` and so on: our plan for a smaller GPU, of which 1 GiB is left to other programs. The planner gets such a GPU's
  capability, and torch gets no more memory than it would have. The arithmetic is still this GPU's: the memory is
  comparable, the seconds are not;
- `12gb-fp8`, `8gb-host16gb-4bit`: the same with that precision; the first stores in fp8 and multiplies in bf16;
- `…-host32gb`: the planner also gets a smaller host, so that it stores shorter weights or leaves them on disk (in this
  host's page cache, unlike on a small host).

Where blocks are compiled, steps run first while the compiler works in the background, as for the first video of a new
server, and then with compiled blocks, one step more. Decoding includes writing the file, as on a server, except with
diffusers, which returns frames as floats.

Each case runs in a process of its own and is written to the records when it ends; another run continues with the
missing ones. After `--budget` seconds no case is started, and one that still runs `GRACE_SECONDS` later is stopped.
`--small` tries the same plans with tiny shapes on any machine and measures nothing.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.report import Records, show
from pipelines.core.model import Attention
from pipelines.core.precision import PrecisionSetting
from pipelines.planning.devices import cuda_devices
from pipelines.planning.layout import GIB
from server.engine.subprocess.environment import environment

BUDGET_SECONDS = 540.0
GRACE_SECONDS = 40.0
STEPS = {"480p": 3, "720p": 2}
"""Denoising steps of a case, of which the first is reported separately. A step at 720p takes four times as long."""

CAPABILITIES = {24: (8, 9), 16: (8, 9), 12: (8, 6), 8: (8, 6), 32: (12, 0)}
"""The capabilities of common GPUs by their memory in GB: RTX 4090, 4080, 3060, 3070 and 5090."""

SMALL_HOSTS = {16: 32, 12: 16, 8: 16}
"""The memory in GB of a typical host for a GPU with so many GB."""


@dataclass(frozen=True, slots=True)
class Case:
    """A case at "480p" or "720p", for a GPU of `card` GB in a host of `host` GB; None stands for this machine's."""

    name: str
    video: str
    plain: bool = False
    card: int | None = None
    capability: tuple[int, int] | None = None
    host: int | None = None
    precision: PrecisionSetting = PrecisionSetting.AUTO
    attention: Attention = Attention.AUTO
    whole: bool = False

    @property
    def cap(self) -> int | None:
        """The bytes of the GPU that may be used; None: all."""
        return None if self.card is None else (self.card - 1) * GIB

    @property
    def steps(self) -> int:
        """The number of denoising steps: fewer if only the memory matters."""
        return STEPS[self.video] if self.card is None else 2


def _cases() -> dict[str, Case]:
    found = []
    for video in STEPS:
        found += [Case(f"{video}-plain", video, plain=True), Case(f"{video}-ours", video)]
        fp8 = Case(f"{video}-fp8", video, precision=PrecisionSetting.FP8)
        found += [fp8, replace(fp8, name=f"{video}-fp8-attention", attention=Attention.FP8)]
        found.append(replace(found[-1], name=f"{video}-fp8-attention-video", whole=True))
        found += [Case(f"{video}-{card}gb", video, False, card, able) for card, able in CAPABILITIES.items()]
    for card, host in SMALL_HOSTS.items():
        found.append(Case(f"480p-{card}gb-host{host}gb", "480p", False, card, CAPABILITIES[card], host))
    # precisions that no plan chooses by itself here
    found += [Case(f"{video}-int8", video, precision=PrecisionSetting.INT8) for video in STEPS]
    found.append(Case("480p-12gb-fp8", "480p", False, 12, CAPABILITIES[12], precision=PrecisionSetting.FP8))
    found.append(Case("480p-8gb-host16gb-4bit", "480p", False, 8, CAPABILITIES[8], 16, PrecisionSetting.Q4))
    return {case.name: case for case in found}


CASES = _cases()

STAGES = ("encoding the prompt", "denoising", "decoding")
"""The names that plans use."""

COLUMNS = (
    "case",
    "plan",
    "prompt, GiB",
    "denoising, GiB",
    "decoding, GiB",
    "driver, GiB",
    "host, GiB",
    "s/step",
    "first step",
    "compiled, s/step",
    "compiling s",
    "decode s",
    "load s",
)
_WIDTH = 230


def _environment() -> dict[str, str]:
    """Return the environment with which a server starts its workers."""
    return {**environment("cuda:0", os.cpu_count()), **os.environ}


def allocator_settings() -> dict[str, str]:
    """Return the settings of torch's allocator in the environment of a case."""
    return {name: value for name, value in _environment().items() if name.endswith("_ALLOC_CONF")}


def key(case: Case, small: bool, gpu: str | None) -> str:
    """Return the key of a record, which is valid for one case, device and version of the libraries."""
    facts = {"case": case.name, "steps": case.steps, "small": small, "gpu": gpu, "allocator": allocator_settings()}
    return json.dumps({**facts, **{package: version(package) for package in ("torch", "diffusers")}})


def run_case(case: Case, small: bool, seconds: float) -> dict[str, Any]:
    """Return a case's record, from a process that is stopped after `seconds`.

    Then `unfinished` says so, beside the measurements up to that time.
    """
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "record.json"
        command = [sys.executable, "-m", "benchmarks.gpu.case", case.name, "--to", str(file)]
        command += ["--small"] if small else []
        try:
            # a stopped process leaves weights on disk, which are deleted with this folder
            ended = subprocess.run(command, check=False, timeout=seconds, env={**_environment(), "TMPDIR": name})
            why = f"ended with status {ended.returncode}"
        except subprocess.TimeoutExpired:
            why = f"stopped after {seconds:.0f} s"
        record = {"case": case.name, **(json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {})}
    return record if record.get("finished") else {**record, "unfinished": why}


def run_all(
    cases: Sequence[Case], small: bool, gpu: str | None, records: Records, budget: float
) -> Iterator[dict[str, Any] | None]:
    """Yield each case's record, measured if it is missing; None once the budget (seconds) is spent."""
    began = time.monotonic()
    for case in cases:
        found, spent = records.find(key(case, small, gpu)), time.monotonic() - began
        if (found is None or "unfinished" in found) and spent < budget:
            found = records.put(key(case, small, gpu), run_case(case, small, budget - spent + GRACE_SECONDS))
        yield found


def judged(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record with the driver's peak, and each stage's memory divided by the prediction.

    A stage's memory is that of its tensors and what the driver counts outside of torch's allocator.
    """
    stages = {name: stage for name, stage in record.get("stages", {}).items() if "driver" in stage}
    if not stages:
        return record
    predicted = record.get("plan", {}).get("stage_peaks", {})
    needed = {name: stage["allocated"] + stage["outside"] for name, stage in stages.items()}
    peak, cap = max(stage["driver"] for stage in stages.values()), record.get("cap_bytes")
    return {
        **record,
        "needed_bytes": needed,
        "measured_over_predicted": {
            name: round(size / predicted[name], 3) for name, size in needed.items() if name in predicted
        },
        "driver_peak_bytes": peak,
        "within_cap": None if cap is None else peak <= cap,
    }


def row(record: dict[str, Any]) -> tuple[str, ...]:
    """Return a judged record as a table row, in the order of COLUMNS: "measured of predicted (ratio)"."""
    plan, stages, needed = (record.get(name, {}) for name in ("plan", "stages", "needed_bytes"))
    peak, cap = record.get("driver_peak_bytes"), record.get("cap_bytes")
    return (
        record["case"],
        _outcome(record),
        *(_share(needed.get(name), plan.get("stage_peaks", {}).get(name)) for name in STAGES),
        _share(peak, cap) if record.get("within_cap", True) is not False else f"{_share(peak, cap)}, over the cap",
        "–" if peak is None else _share(record.get("host_bytes"), plan.get("host_peak")),
        _seconds(record.get("seconds_per_step")),
        _seconds(record.get("first_step_more_seconds"), "+"),
        _seconds(record.get("compiled", {}).get("seconds_per_step")),
        _seconds(record.get("compiling_seconds")),
        *(_seconds(stages.get(name, {}).get("seconds")) for name in ("decoding", "loading")),
    )


def _outcome(record: dict[str, Any]) -> str:
    """Return the layout in words, and everything unusual."""
    plainly = "diffusers as documented" if record["case"].endswith("-plain") else "no plan yet"
    words = [record.get("plan", {}).get("name", plainly)]
    if "does_not_fit" in record:
        words.append(f"does not fit: {record['does_not_fit']}")
    if "out_of_memory" in record:
        words.append(f"out of memory, {record['stopped_in']}")
    if "not finite" in (record.get("latents"), record.get("video")):
        words.append("made values that are not numbers")
    for video in record.get("whole", []):
        computed = f"{video['computed']} of {video['steps']} steps computed"
        words.append(f"{computed}{'' if video['guided'] else ', no guidance'}: {video['seconds']:.1f} s in all")
    if "unfinished" in record:
        words.append(record["unfinished"])
    return "; ".join(words)


def _share(measured: int | None, of: int | None) -> str:
    if measured is None:
        return "–"
    return f"{measured / GIB:.1f}" if of is None else f"{measured / GIB:.1f} of {of / GIB:.1f} ({measured / of:.2f})"


def _seconds(value: float | None, sign: str = "") -> str:
    return "–" if value is None else f"{value:{sign}.2f}"


def main() -> None:
    """Measure the missing cases, then print all records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, required=True, help="a file of JSON lines, created or continued")
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES), metavar="CASE", help=" ".join(CASES))
    parser.add_argument("--budget", type=float, default=BUDGET_SECONDS, help="seconds after which no case is started")
    parser.add_argument("--small", action="store_true", help="tiny shapes, on a CPU if there is no GPU")
    options = parser.parse_args()
    gpu = next((device.description for device in cuda_devices()), None)
    if gpu is None and not options.small:
        parser.error("there is no CUDA device here; --small tries it on tiny shapes without one")
    found = []
    cases = [CASES[name] for name in options.case]
    for record in run_all(cases, options.small, gpu, Records(options.records), options.budget):
        if record is not None:
            found.append(judged(record))
            print("  ".join(row(found[-1])), flush=True)
    done = {record["case"] for record in found}
    figures = {
        "command": shlex.join(["python", "-m", "benchmarks.gpu", *sys.argv[1:]]),
        "gpu": gpu,
        "small": options.small,
        "not_yet_measured": [name for name in options.case if name not in done],
        "cases": found,
    }
    title = "gpu, in small: nothing is measured" if options.small else "gpu"
    show(title, [row(record) for record in found], figures, COLUMNS, _WIDTH)


if __name__ == "__main__":
    main()
