"""Sentences about errors as clients may read them: without the paths of this machine, which are in the log."""

import re

# what precedes the last name of an absolute path; before the path of a URL, and before a slash in a text, is a letter
_FOLDERS = re.compile(r"(?<![\w/.:~-])(?:~?/|[A-Za-z]:\\)(?:[^\s'\"/\\]+[/\\])*(?=[^\s'\"/\\])")


def without_paths(sentence: str) -> str:
    """Return a sentence in which files and folders have their names only."""
    return _FOLDERS.sub("", sentence)
