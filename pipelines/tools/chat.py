"""Answers questions with an instruct model of transformers, on the CPU, in a process of its own.

python -P -m pipelines.tools.chat MODEL

MODEL is a folder as transformers saves it, with a chat template, or a GGUF file. The process prints {"ready": true}
once the model is loaded, or {"error": …}. Then each line of its input is a question {"system", "prompt", "seed",
"temperature", "seconds"}, and each line that it prints is {"text", "is_complete", "is_late"}, {"longest": …} for one
that is too long, or {"error": …}. It ends with its input.
"""

import json
import logging
import os
import sys
from pathlib import Path

from pipelines.core.processes import die_with_parent

_NICENESS = 10
"""Videos on the same machine go first."""

log = logging.getLogger(__name__)


def main() -> None:
    """Load the model, and answer until the input ends."""
    die_with_parent()
    # before any library is imported: what these print is no answer
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    os.nice(_NICENESS)

    def say(**about: object) -> None:
        answers.write(json.dumps(about) + "\n")
        answers.flush()

    try:
        import torch

        from pipelines.tools.chat_model import ChatModel, TooLongError

        torch.set_num_threads(max(1, _cores() // 2))
        model = ChatModel(Path(sys.argv[1]))
    # libraries raise whatever they like for a file that is damaged
    except Exception as error:  # noqa: BLE001
        say(error=_sentence(error))
        return
    say(ready=True)
    for line in sys.stdin:
        try:
            text, is_complete, is_late = model.answer(json.loads(line))
        except TooLongError as error:
            say(longest=error.limit)
        except Exception as error:
            log.exception("a question was not answered")
            say(error=_sentence(error))
        else:
            say(text=text, is_complete=is_complete, is_late=is_late)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__


if __name__ == "__main__":
    main()
