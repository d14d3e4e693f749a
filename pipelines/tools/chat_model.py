"""An instruct model of transformers on the CPU, which answers one question at a time."""

import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from jinja2 import TemplateError
from transformers import AutoModelForCausalLM, AutoTokenizer

MAX_NEW_TOKENS = 768
"""More than a prompt has: what is cut is no answer."""

_ENDS = ("<|im_end|>", "<|eot_id|>", "<|end|>", "<|endoftext|>", "<end_of_turn>", "</s>")
"""What ends a turn where a model's configuration does not say it."""


class TooLongError(Exception):
    """A question with its instructions is longer than the `limit` of tokens that the model reads."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.limit = limit


class ChatModel:
    """An instruct model in a folder as transformers saves it, or in a GGUF file.

    Raises ValueError for a model without a chat template.
    """

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
        for tensor in (*self._model.parameters(), *self._model.buffers()):
            # what is mapped from the file counts as free memory, which videos would be planned with
            tensor.data = tensor.data.clone()
        self._longest = int(getattr(self._model.config, "max_position_embeddings", 0) or 2**31)
        self._ends = self._end_tokens()
        self._apart = self._takes_instructions()

    def answer(self, question: dict[str, Any]) -> tuple[str, bool, bool]:
        """The model's words, whether it ended by itself, and else whether its time was up. Same seed, same words.

        The question has "system", "prompt", "seed", "temperature" and "seconds". Raises TooLongError.
        """
        inputs = torch.tensor([self._tokens(question["system"], question["prompt"].strip())])
        asked = inputs.shape[1]
        if asked + MAX_NEW_TOKENS > self._longest:
            raise TooLongError(self._longest - MAX_NEW_TOKENS)
        torch.manual_seed(question["seed"])
        began = time.monotonic()
        with torch.inference_mode():
            written = self._model.generate(
                inputs,
                attention_mask=torch.ones_like(inputs),
                max_new_tokens=MAX_NEW_TOKENS,
                max_time=question["seconds"],
                eos_token_id=sorted(self._ends) or None,
                do_sample=True,
                temperature=question["temperature"],
                top_p=0.9,
                top_k=0,
            )[0, asked:]
        is_complete = len(written) > 0 and int(written[-1]) in self._ends
        is_late = not is_complete and time.monotonic() - began >= question["seconds"]
        return self._tokenizer.decode(written, skip_special_tokens=True), is_complete, is_late

    def _tokens(self, system: str, prompt: str) -> list[int]:
        """The tokens of a conversation. Those of the prompt are plain words, which begin no part of their own.

        Markers that a template writes as plain text, such as [INST], cannot be told from a prompt's.
        """
        stand_in = uuid4().hex
        text = self._rendered(system, stand_in, apart=self._apart)
        words = self._tokenizer.encode(self._plain(prompt), add_special_tokens=False, split_special_tokens=True)
        before, *others = (self._tokenizer.encode(part, add_special_tokens=False) for part in text.split(stand_in))
        return [*before, *(token for other in others for token in (*words, *other))]

    def _plain(self, prompt: str) -> str:
        """A prompt without the tokens that were added to the vocabulary: not all of these count as special."""
        added = [token for token in self._tokenizer.get_added_vocab() if not token.isspace() and token]
        while found := [token for token in added if token in prompt]:
            for token in found:
                prompt = prompt.replace(token, " ")
        return prompt

    def _rendered(self, system: str, prompt: str, *, apart: bool) -> str:
        """The text of a conversation, with the instructions apart from the user's words or before them."""
        if apart:
            messages = [{"role": "system", "content": system}, {"role": "user", "content": prompt}]
        else:
            messages = [{"role": "user", "content": f"{system}\n\n{prompt}"}]
        # of those that can, none thinks in words first: a processor writes few of them in a second
        options: dict[str, Any] = {"add_generation_prompt": True, "tokenize": False, "enable_thinking": False}
        return str(self._tokenizer.apply_chat_template(messages, **options))

    def _takes_instructions(self) -> bool:
        """Whether the template takes instructions apart from the user's words. Raises ValueError if it takes neither.

        Some refuse them.
        """
        try:
            self._rendered("a", "b", apart=True)
        except TemplateError:
            pass
        else:
            return True
        try:
            self._rendered("a", "b", apart=False)
        except TemplateError as error:
            raise ValueError(f"has a chat template that takes no user's words: {error}") from error
        return False

    def _end_tokens(self) -> set[int]:
        configured = self._model.generation_config.eos_token_id
        ends = {*configured} if isinstance(configured, list) else {configured}
        added = self._tokenizer.get_added_vocab()
        return {each for each in (*ends, self._tokenizer.eos_token_id, *map(added.get, _ENDS)) if each is not None}
