"""How often the demo's sounds are of the kind that a prompt asks for, on prompts in wordings unseen in training.

A spectral classifier that knows only drawn sounds is the judge. It is tested first, on other drawn sounds.

python -m benchmarks.quality.demo_sound --records FILE.jsonl

Every sound adds a line to the records; another run continues where the first was stopped. Other weights need other
records.
"""

import argparse
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from benchmarks.quality.demo_quality import wilson
from benchmarks.report import Records, machine
from demo_training.sound.captions import SoundCaption, describe_scene, held_out_prompts
from demo_training.sound.judge import OTHER, example, fitted
from demo_training.sound.sounds import KINDS, RATE, Samples
from demo_training.sound.spectrogram import picture
from pipelines.demo.folder import demo_sound_folder
from pipelines.demo.words import LANGUAGES

SEED: Final = 20261206
TRUE_SOUNDS: Final = 300
BAR_TRUE: Final = 0.98
BAR_MADE: Final = 0.90


class Maker:
    """The sound model in `folder`, on the CPU."""

    def __init__(self, folder: Path, steps: int, guidance: float) -> None:
        from diffusers import LongCatAudioDiTPipeline

        self._pipeline = LongCatAudioDiTPipeline.from_pretrained(folder, torch_dtype=torch.float32)
        self._pipeline.set_progress_bar_config(disable=True)
        self._steps, self._guidance = steps, guidance

    def make(self, prompt: str, seconds: float, seed: int) -> Samples:
        """A sound of `seconds` at RATE: the pipeline makes whole latents, so one more is asked for and cut."""
        spare = self._pipeline.vae_scale_factor / self._pipeline.sample_rate
        made = self._pipeline(
            prompt,
            audio_duration_s=seconds + spare,
            num_inference_steps=self._steps,
            guidance_scale=self._guidance,
            generator=torch.Generator("cpu").manual_seed(seed),
        ).audios[0, 0]
        sound: Samples = made[: round(seconds * RATE)]
        return sound


def interval(right: int, count: int) -> tuple[float, float]:
    """The 95 % Wilson interval of a share."""
    return wilson(right, count), 1 - wilson(count - right, count)


def judge_the_judge(count: int = TRUE_SOUNDS) -> dict[str, Any]:
    """The share of other drawn sounds, of all kinds and of none, that the judge is right about."""
    classifier = fitted()
    names = classifier.names
    right = dict.fromkeys(names, 0)
    each = count // len(KINDS)
    for name in names:
        wanted = name if name in KINDS else OTHER
        right[name] = sum(classifier.kind(example(name, index, SEED)) == wanted for index in range(each))
    kinds = sum(right[name] for name in KINDS)
    return {**figures(kinds, each * len(KINDS)), "kinds": {name: right[name] / each for name in names}}


def figures(right: int, count: int) -> dict[str, Any]:
    """A share, its interval and the count."""
    low, high = interval(right, count)
    return {"share": right / max(1, count), "low": round(low, 4), "high": round(high, 4), "n": count}


def table(answers: Iterable[tuple[SoundCaption, str]]) -> dict[str, dict[str, Any]]:
    """Figures for all answers (a prompt and the kind that was heard), for each language and for each kind."""
    answers = list(answers)
    groups = {
        "all": answers,
        **{name: [answer for answer in answers if answer[0].language == name] for name in LANGUAGES},
        **{name: [answer for answer in answers if answer[0].kind == name] for name in KINDS},
    }
    return {
        name: figures(sum(caption.kind == heard for caption, heard in group), len(group))
        for name, group in groups.items()
        if group
    }


def scene_prompts(count: int) -> list[SoundCaption]:
    """Captions of clips that name no sound, for each kind that fits one."""
    rng = np.random.default_rng(SEED)
    kinds = [kind for kind in KINDS if kind != "waves"]
    return [
        describe_scene(kinds[index % len(kinds)], LANGUAGES[index // len(kinds) % 2], rng) for index in range(count)
    ]


def main() -> None:
    """Test the judge, make all sounds, print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=demo_sound_folder())
    parser.add_argument("--records", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=60)
    parser.add_argument("--scenes", type=int, default=0, help="ask for the sounds of so many captions of clips, too")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--spectrograms", type=Path, help="a PNG file for the spectrograms of the first 24 sounds")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    result: dict[str, Any] = {"judge": judge_the_judge()}
    show("judge, drawn sounds", result["judge"], BAR_TRUE)
    for name, share in result["judge"]["kinds"].items():
        print(f"  {name:10} {share:6.1%}")
    records, maker = Records(options.records), Maker(options.folder, options.steps, options.guidance)
    asked = {"named": held_out_prompts(options.prompts, SEED), "scenes": scene_prompts(options.scenes)}
    sounds: list[tuple[str, Samples]] = []
    for group, prompts in asked.items():
        answers = []
        for seed, prompt in enumerate(prompts):
            key = f"{group} {options.seconds} {options.steps} {options.guidance} {seed} {prompt.text}"

            def answer(prompt: SoundCaption = prompt, seed: int = seed) -> dict[str, Any]:
                begun = time.process_time()
                sound = maker.make(prompt.text, options.seconds, seed)
                took = round(time.process_time() - begun, 2)
                return {"wanted": prompt.kind, "heard": fitted().kind(sound), "cpu_seconds": took}

            record = records.get(key, answer)
            answers.append((prompt, record["heard"]))
            if options.spectrograms and len(sounds) < 24:
                sounds.append(
                    (f"{prompt.kind}, heard {record['heard']}", maker.make(prompt.text, options.seconds, seed))
                )
        if answers:
            result[group] = table(answers)
            for name, share in result[group].items():
                show(f"{group}, {name}", share, BAR_MADE if name == "all" else None)
            for prompt, heard in answers:
                if heard != prompt.kind:
                    print(f"  wrong: {prompt.text!r}: {heard}")
    if options.spectrograms:
        picture(sounds, 6, options.spectrograms)
    print(json.dumps({"benchmark": "demo_sound", **machine(), **result}, ensure_ascii=False))


def show(name: str, share: dict[str, Any], bar: float | None = None) -> None:
    """Print a line of the table, with the bar if there is one."""
    verdict = "" if bar is None else f"  bar {bar:.0%}: {'reached' if share['share'] >= bar else 'MISSED'}"
    print(f"{name:22} {share['share']:6.1%}  ({share['low']:.1%} to {share['high']:.1%}, n {share['n']}){verdict}")


if __name__ == "__main__":
    main()
