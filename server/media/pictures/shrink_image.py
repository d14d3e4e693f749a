"""Makes a small copy of a kept image, in a process of its own.

python -P -m server.media.pictures.shrink_image INPUT OUTPUT   # prints the width and height of the copy as JSON

INPUT is what `decode_image` has written. OUTPUT becomes a JPEG file.
"""

import sys
from pathlib import Path
from typing import Any

from PIL import Image

from server.media.limits import RefusedInputError, run

MAX_SIDE = 768
"""Limit of each side in pixels: as much as models that see make use of."""

_QUALITY = 85


def main() -> None:
    """Shrink one image."""
    source, target = map(Path, sys.argv[1:3])

    def work() -> dict[str, Any]:
        # it was checked when it was kept
        Image.MAX_IMAGE_PIXELS = None
        try:
            with Image.open(source, formats=("PNG",)) as image:
                small = image.convert("RGB")
        except (SyntaxError, ValueError, EOFError) as error:
            raise RefusedInputError("is damaged or not complete") from error
        small.thumbnail((MAX_SIDE, MAX_SIDE))
        small.save(target, "JPEG", quality=_QUALITY)
        return {"width": small.width, "height": small.height}

    run(work)


if __name__ == "__main__":
    main()
