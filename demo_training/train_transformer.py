"""Train the transformer: flow matching on latents of several sizes, with a new caption for a clip at every step.

python -m demo_training.train_transformer --state FOLDER
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch.nn import functional

from demo_training.latents import Canvas, draw_shard, has_shard, load_shard, scene_of
from demo_training.optim import Optimizers
from demo_training.train_text import TEXT_DIM, encode_texts, load_text_encoder
from demo_training.train_vae import LATENT_CHANNELS
from demo_training.training import Run, seed_step
from pipelines.demo.grammar import describe, describe_continuation
from pipelines.demo.words import LANGUAGES

SEED = 20261127
SHIFT = 3.0
CAPTION_DROPOUT = 0.1
IMAGE_SHARE = 0.3
"""Share of the steps on clips of several frames whose first one is given. Of the others it always is."""
EMA = 0.995
TEXT_TOKENS = 48
PROMPT_TOKENS = 512
"""At inference prompts are padded to this many tokens, and attention covers the padding."""


@dataclass(frozen=True, slots=True)
class CanvasSchedule:
    """Relative frequency of a canvas at the start, in the middle and at the end of training."""

    canvas: Canvas
    early: float
    middle: float
    late: float


SCHEDULES = (
    CanvasSchedule(Canvas(256, 160, 17, 3000), 0.80, 0.45, 0.25),
    CanvasSchedule(Canvas(192, 192, 17, 160), 0.08, 0.06, 0.04),
    CanvasSchedule(Canvas(160, 256, 17, 160), 0.08, 0.06, 0.04),
    CanvasSchedule(Canvas(416, 256, 1, 1500), 0.04, 0.15, 0.08),
    CanvasSchedule(Canvas(416, 256, 17, 320), 0.04, 0.20, 0.15),
    CanvasSchedule(Canvas(416, 256, 33, 1200), 0.0, 0.23, 0.45),
    CanvasSchedule(Canvas(832, 480, 17, 40), 0.0, 0.0, 0.05),
    CanvasSchedule(Canvas(832, 480, 81, 16), 0.0, 0.0, 0.02),
    CanvasSchedule(Canvas(256, 160, 17, 1200, is_free=True), 0.0, 0.15, 0.15),
    CanvasSchedule(Canvas(416, 256, 33, 400, is_free=True), 0.0, 0.05, 0.25),
)
TOKENS_PER_STEP = 4800


def build_transformer() -> Any:
    """The demo's transformer, untrained."""
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=3,
        attention_head_dim=64,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        text_dim=TEXT_DIM,
        freq_dim=128,
        ffn_dim=640,
        num_layers=4,
    )
    for block in transformer.blocks:
        # sharp enough to separate words from 500 tokens of padding
        torch.nn.init.constant_(block.attn2.norm_q.weight, 1.3)
        torch.nn.init.constant_(block.attn2.norm_k.weight, 1.3)
    torch.nn.init.zeros_(transformer.proj_out.weight)
    return transformer


def block_forward(
    block: Any,
    hidden: torch.Tensor,
    text: torch.Tensor,
    text_bias: torch.Tensor,
    modulation: torch.Tensor,
    rope: tuple[torch.Tensor, torch.Tensor],
) -> torch.Tensor:
    """WanTransformerBlock.forward in training precision, with a bias (b, 1, 1, l) on the logits of the text.

    `modulation` is (b, tokens, 6, d).
    """
    shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = (block.scale_shift_table + modulation).unbind(dim=2)
    hidden = hidden + block.attn1(block.norm1(hidden) * (1 + scale) + shift, None, None, rope) * gate
    hidden = hidden + block.attn2(block.norm2(hidden), text, text_bias, None)
    return hidden + block.ffn(block.norm3(hidden) * (1 + ffn_scale) + ffn_shift) * ffn_gate


def velocity(
    model: Any,
    noisy: torch.Tensor,
    timestep: torch.Tensor,
    text: torch.Tensor,
    text_bias: torch.Tensor,
    first_is_given: bool = False,
) -> torch.Tensor:
    """WanTransformer3DModel.forward, with a bias on the text's logits: (b, c, t, h, w) → the same shape.

    The tokens of a first frame that is given have the time 0, all others `timestep` (b).
    """
    rope = model.rope(noisy)
    hidden = model.patch_embedding(noisy)
    grid = hidden.shape[2:]
    hidden = hidden.flatten(2).transpose(1, 2).contiguous()
    times = torch.stack([timestep, torch.zeros_like(timestep)], dim=1)
    temb, modulation, text, _ = model.condition_embedder(times.flatten(), text, None, timestep_seq_len=2)
    # which of the two times each token has; one for all is broadcast
    which = torch.zeros(1, dtype=torch.long)
    if first_is_given:
        which = (torch.arange(hidden.shape[1]) < grid[1] * grid[2]).long()
    temb, modulation = temb[:, which], modulation.unflatten(2, (6, -1))[:, which]
    for block in model.blocks:
        hidden = block_forward(block, hidden, text, text_bias, modulation, rope)
    shift, scale = (model.scale_shift_table + temb.unsqueeze(2)).unbind(dim=2)
    hidden = model.proj_out(model.norm_out(hidden) * (1 + scale) + shift)
    patches = hidden.reshape(len(noisy), *grid, *model.config.patch_size, -1)
    return patches.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)


def with_padding(states: torch.Tensor, mask: torch.Tensor, weight: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Text states (b, l, d) and mask (b, l) → TEXT_TOKENS + 1 states and the bias on their logits.

    The last token stands for all padding tokens of a prompt at inference: attention to n equal keys equals attention to
    one key whose logit is higher by log n. `weight` (0 … 1) raises its weight from e^-3 keys to all of them, because at
    first the padding would hide the words.
    """
    states, mask = states[:, :TEXT_TOKENS], mask[:, :TEXT_TOKENS]
    missing = TEXT_TOKENS + 1 - states.shape[1]
    padded = functional.pad(states, (0, 0, 0, missing))
    bias = torch.zeros(len(states), TEXT_TOKENS + 1)
    bias[:, : mask.shape[1]].masked_fill_(~mask, float("-inf"))
    bias[:, mask.shape[1] : TEXT_TOKENS] = float("-inf")
    full = torch.log(PROMPT_TOKENS - mask.sum(1).float())
    bias[:, TEXT_TOKENS] = -3.0 + (full + 3.0) * weight
    return padded, bias[:, None, None, :]


def learning_rate(progress: float) -> float:
    """Share of the peak learning rate: warm-up, constant until 45 % of training, then down to 2 %."""
    if progress < 0.45:
        return min(1.0, 0.02 + progress / 0.01)
    return max(0.02, 1 - 0.98 * (progress - 0.45) / 0.55)


def padding_weight(progress: float) -> float:
    """Weight of the padding: 0 until 10 % of training, 1 from 55 % on."""
    return min(1.0, max(0.0, (progress - 0.10) / 0.45))


def choose_canvas(progress: float, schedules: list[CanvasSchedule], rng: np.random.Generator) -> CanvasSchedule:
    """The canvas of a step; small ones first."""
    if progress < 0.5:
        share = progress / 0.5
        weights = [schedule.early * (1 - share) + schedule.middle * share for schedule in schedules]
    else:
        share = min(1.0, (progress - 0.5) / 0.2)
        weights = [schedule.middle * (1 - share) + schedule.late * share for schedule in schedules]
    return schedules[rng.choice(len(schedules), p=np.array(weights) / sum(weights))]


class Trainer:
    """One training: `train` does its steps, `draw` its clips. It begins anew or with finished `weights`.

    With `drawn_only` it uses the clips that are on disk, and one shard at least.
    """

    def __init__(self, state: Path, peak: float, weights: Path | None = None, *, drawn_only: bool = False) -> None:
        self._folder = state / "transformer"
        self._latents_folder = state / "latents"
        self._vae = AutoencoderKLWan.from_pretrained(state / "vae" / "vae").eval().requires_grad_(False)
        self._tokenizer, self._encoder = load_text_encoder(state / "text")
        torch.manual_seed(SEED)
        self._continues = weights is not None
        self._drawn_only = drawn_only
        self.model = build_transformer() if weights is None else load_transformer(weights)
        self._average = build_transformer().requires_grad_(False)
        self._average.load_state_dict(self.model.state_dict())
        plain = [self.model.proj_out.weight, self.model.patch_embedding.weight]
        plain += [tensor for name, tensor in self.model.named_parameters() if name.endswith("scale_shift_table")]
        self._optimizers = Optimizers(self.model, peak, plain)
        self._run = Run(self._folder, {"model": self.model, "average": self._average, "optimizers": self._optimizers})
        self._clips: dict[str, list[torch.Tensor]] = {}
        self._shards: dict[str, int] = {}
        self._mean, self._deviation = (
            torch.tensor(values).view(1, -1, 1, 1, 1)
            for values in (self._vae.config.latents_mean, self._vae.config.latents_std)
        )

    def draw(self, canvas: Canvas) -> None:
        """Load the existing clips of a canvas, and draw one more missing shard.

        So the training starts at once, and its clips grow in number while it goes on.
        """
        loaded = self._clips.setdefault(canvas.name, [])
        for number in range(self._shards.get(canvas.name, 0), canvas.shards):
            drawn = has_shard(canvas, number, self._latents_folder)
            if not drawn and loaded and self._drawn_only:
                break
            if not drawn:
                draw_shard(self._vae, canvas, number, self._latents_folder)
            clips = load_shard(canvas, number, self._latents_folder)
            loaded.extend(((clips.float() - self._mean) / self._deviation).half())
            self._shards[canvas.name] = number + 1
            if not drawn:
                break

    def train(self, steps: int) -> None:
        """Train, or resume, until `steps` are done."""
        recent: dict[str, list[float]] = {}
        for step in self._run.until(steps):
            seed_step(SEED, step)
            rng = np.random.default_rng((SEED, step))
            progress = step / steps
            # finished weights know what is learned early
            stage = 1.0 if self._continues else progress
            schedule = choose_canvas(stage, list(SCHEDULES), rng)
            self.draw(schedule.canvas)
            loss = self._step(schedule.canvas, stage, rng)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self._optimizers.step(learning_rate(progress))
            self._follow(step)
            recent.setdefault(schedule.canvas.name, []).append(float(loss.detach()))
            if (step + 1) % 50 == 0:
                self._run.log(**{name: round(float(np.mean(losses)), 4) for name, losses in recent.items()})
                recent.clear()

    def _step(self, canvas: Canvas, progress: float, rng: np.random.Generator) -> torch.Tensor:
        batch = max(1, TOKENS_PER_STEP // canvas.tokens)
        indices = rng.integers(len(self._clips[canvas.name]), size=batch)
        clean = torch.stack([self._clips[canvas.name][index] for index in indices]).float()
        is_given = canvas.is_free or (canvas.num_frames > 1 and rng.random() < IMAGE_SHARE)
        caption = describe_continuation if is_given else describe
        texts = [
            ""
            if rng.random() < CAPTION_DROPOUT
            else caption(scene_of(canvas, int(index)), LANGUAGES[rng.integers(2)], rng).text
            for index in indices
        ]
        with torch.no_grad():
            states, mask = encode_texts(self._tokenizer, self._encoder, texts)
        text, bias = with_padding(states, mask, padding_weight(progress))
        # stratified: a batch covers all noise levels evenly
        uniform = (torch.arange(batch) + torch.rand(batch)) / batch
        sigma = (SHIFT * uniform / (1 + (SHIFT - 1) * uniform)).view(-1, 1, 1, 1, 1)
        noise = torch.randn_like(clean)
        noisy = (1 - sigma) * clean + sigma * noise
        first = int(is_given)
        noisy[:, :, :first] = clean[:, :, :first]
        with torch.autocast("cpu", torch.bfloat16):
            predicted = velocity(self.model, noisy, sigma.flatten() * 1000, text, bias, is_given)
        return functional.mse_loss(predicted[:, :, first:].float(), (noise - clean)[:, :, first:])

    @torch.no_grad()
    def _follow(self, step: int) -> None:
        # a short window at first, so that the average forgets the initial weights
        keep = min(EMA, (step + 1) / (step + 10))
        for slow, fast in zip(self._average.parameters(), self.model.parameters(), strict=True):
            slow.lerp_(fast, 1 - keep)


def load_transformer(weights: Path) -> Any:
    """The transformer of finished weights, to be trained on."""
    return WanTransformer3DModel.from_pretrained(weights / "transformer", torch_dtype=torch.float32).train()


def load_average(state: Path) -> Any:
    """The averaged transformer of a finished or unfinished training."""
    model = build_transformer()
    saved = torch.load(state / "transformer" / "state.pt", weights_only=True)
    model.load_state_dict(saved["parts"]["average"])
    return model.eval().requires_grad_(False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3600)
    parser.add_argument("--peak", type=float, default=1.5e-3)
    parser.add_argument("--from", dest="weights", type=Path, help="continue these finished weights")
    parser.add_argument("--drawn-only", action="store_true", help="use the clips on disk instead of drawing more")
    options = parser.parse_args()
    torch.set_num_threads(2)
    trainer = Trainer(options.state, options.peak, options.weights, drawn_only=options.drawn_only)
    trainer.train(options.steps)
