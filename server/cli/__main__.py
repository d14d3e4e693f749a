"""`python -m server.cli`, and the command `paddock`."""

import sys


def run() -> None:
    """Run the command line. Ctrl-C ends it with a sentence, also while it is still being imported."""
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


if __name__ == "__main__":
    run()
