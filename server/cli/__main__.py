"""`python -m server.cli`, and the command `paddock`."""

import sys


def run() -> None:
    """Run the command line. Ctrl-C ends it with a sentence, also while it is still being imported."""
    try:
        from server.cli.main import main

        main()
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        sys.exit(130)


if __name__ == "__main__":
    run()
