"""The real server in an internet of one host: `python -P -m tests.support.fetching_server serve …`.

The name images.example stands for a public address, which leads to the port in IMAGE_HOST_PORT on loopback.
"""

import os
from functools import partial

from server.cli import main as cli
from server.media.fetch.download import Downloader
from server.service.awaiting import input_fetcher
from tests.support.image_host import PUBLIC, Internet

if __name__ == "__main__":
    internet = Internet({PUBLIC: int(os.environ["IMAGE_HOST_PORT"])}, {"images.example": [[PUBLIC]]})
    input_fetcher.Downloader = partial(Downloader, internet.resolve, internet)  # type: ignore[assignment, misc]
    cli.main()
