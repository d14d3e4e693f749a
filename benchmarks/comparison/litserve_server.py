"""The demo pipeline behind LitServe, written as its documentation shows. `benchmarks.comparison.rivals` starts it."""

import base64
import sys
import tempfile
from pathlib import Path
from typing import Any

import litserve

from pipelines.core.model import ModelSpec
from pipelines.core.request import VideoParams
from pipelines.demo.folder import demo_folder
from pipelines.runner.runner import Runner


class TextToVideo(litserve.LitAPI):
    """One video per request, in base64."""

    def setup(self, device: str) -> None:
        """Load the model."""
        self.runner = Runner.load(ModelSpec("demo", fps=16), demo_folder(), "cpu")

    def decode_request(self, request: dict[str, Any]) -> VideoParams:
        """Request body → parameters."""
        return VideoParams(**request)

    def predict(self, params: VideoParams) -> bytes:
        """Make a video."""
        with tempfile.TemporaryDirectory() as folder:
            return self.runner.run(params, Path(folder) / "video.mp4").path.read_bytes()

    def encode_response(self, video: bytes) -> dict[str, str]:
        """File → response."""
        return {"video": base64.b64encode(video).decode()}


if __name__ == "__main__":
    server = litserve.LitServer(TextToVideo(), accelerator="cpu", timeout=False)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False)
