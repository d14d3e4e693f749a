"""`python -m server.cli`, and the command `paddock`."""

import _thread
import os
import signal
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs


def run() -> None:
    """Run the command line. Ctrl-C ends it with a sentence, also while it is still being imported."""
    sys.unraisablehook = _unraisable
    try:
        from server.cli.terminal import end_output, print_anything

        print_anything()
        try:
            from server.cli.main import main

            try:
                main()
            finally:
                if sys.stdout is not None:
                    sys.stdout.flush()
        except OSError as error:
            if not end_output(error):
                raise
            sys.exit(1)
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        sys.exit(130)


def _unraisable(ignored: "UnraisableHookArgs") -> None:
    if not issubclass(ignored.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(ignored)
    elif not sys.is_finalizing():
        # a callback, such as those of imports, cannot be interrupted: what it interrupted must be, when it is over
        _thread.start_new_thread(_interrupt, ())


def _interrupt() -> None:
    time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    run()
