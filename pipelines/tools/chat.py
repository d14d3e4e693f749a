"""Answers questions with an instruct model of transformers, on the CPU, in a process of its own.

python -P -m pipelines.tools.chat MODEL

MODEL is a folder as transformers saves it, with a chat template, or a GGUF file. The process prints {"ready": true}
once the model is loaded, or {"error": …}. Then each line of its input is a question {"system", "prompt", "seed",
"temperature", "seconds"}, and each line that it prints is {"text", "is_complete"} or {"error": …}. It ends with its
input.
"""

import json
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipelines.core.processes import die_with_parent

MAX_NEW_TOKENS = 768
"""More than a prompt has: what is cut is no answer."""

_NICENESS = 10
"""Videos on the same machine go first."""


class ChatModel:
    """An instruct model that answers one question at a time. Raises ValueError for a model without a chat template."""

    def __init__(self, path: Path) -> None:
        folder, named = (path.parent, {"gguf_file": path.name}) if path.is_file() else (path, {})
        # nothing of a model is executed, and nothing is fetched
        safe: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False, **named}
        self._tokenizer = AutoTokenizer.from_pretrained(folder, **safe)
        if not self._tokenizer.chat_template:
            raise ValueError("has no chat template: it is no instruct model")
        if not named:
            safe["use_safetensors"] = True
        # in 16 bits also where a processor computes faster in 32: half the memory
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, **safe).eval()
        self._longest = int(getattr(self._model.config, "max_position_embeddings", 0) or 2**31)

    def answer(self, question: dict[str, Any]) -> tuple[str, bool]:
        """The model's words, and whether it ended by itself within the seconds and tokens. Same seed, same words.

        Raises ValueError for a question that it cannot take.
        """
        inputs = torch.tensor([self._tokens(question["system"], question["prompt"].strip())])
        asked = inputs.shape[1]
        if asked + MAX_NEW_TOKENS > self._longest:
            raise ValueError(f"reads no more than {self._longest} tokens: with its instructions the prompt is too long")
        torch.manual_seed(question["seed"])
        with torch.inference_mode():
            written = self._model.generate(
                inputs,
                attention_mask=torch.ones_like(inputs),
                max_new_tokens=MAX_NEW_TOKENS,
                max_time=question["seconds"],
                do_sample=True,
                temperature=question["temperature"],
                top_p=0.9,
                top_k=0,
            )[0, asked:]
        ends = self._model.generation_config.eos_token_id
        ends = set(ends) if isinstance(ends, list) else {ends}
        is_complete = len(written) > 0 and int(written[-1]) in ends
        return self._tokenizer.decode(written, skip_special_tokens=True), is_complete

    def _tokens(self, system: str, prompt: str) -> list[int]:
        """The tokens of a conversation, with those of the prompt as plain words: it cannot begin a part of its own."""
        stand_in = uuid4().hex
        text = self._tokenizer.apply_chat_template(
            [{"role": "system", "content": system}, {"role": "user", "content": stand_in}],
            add_generation_prompt=True,
            tokenize=False,
            # of those that can, none thinks in words first: a processor writes few of them in a second
            enable_thinking=False,
        )
        words = self._tokenizer.encode(prompt, add_special_tokens=False, split_special_tokens=True)
        before, *others = (self._tokenizer.encode(part, add_special_tokens=False) for part in text.split(stand_in))
        return [*before, *(token for other in others for token in (*words, *other))]


def main() -> None:
    """Load the model, and answer until the input ends."""
    die_with_parent()
    os.nice(_NICENESS)
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // 2))
    answers = sys.stdout

    def say(**about: object) -> None:
        answers.write(json.dumps(about) + "\n")
        answers.flush()

    # what libraries print is no answer
    with redirect_stdout(sys.stderr):
        try:
            model = ChatModel(Path(sys.argv[1]))
        except (OSError, ValueError, RuntimeError, ImportError, MemoryError) as error:
            say(error=_sentence(error))
            return
        say(ready=True)
        for line in sys.stdin:
            try:
                text, is_complete = model.answer(json.loads(line))
            except (ValueError, RuntimeError, MemoryError) as error:
                say(error=_sentence(error))
            else:
                say(text=text, is_complete=is_complete)


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__


if __name__ == "__main__":
    main()
