"""The demo pipeline behind cog, written as its documentation shows. `benchmarks.comparison.rivals` starts it."""

import tempfile

import cog

from pipelines.core.model import ModelSpec
from pipelines.core.request import VideoParams
from pipelines.demo.folder import demo_folder
from pipelines.runner.runner import Runner as Pipeline


class Runner(cog.BaseRunner):
    """One video per prediction, as a file."""

    def setup(self) -> None:
        """Load the model."""
        self.pipeline = Pipeline.load(ModelSpec("demo", fps=16), demo_folder(), "cpu")

    def run(
        self,
        prompt: str,
        negative_prompt: str,
        width: int,
        height: int,
        num_frames: int,
        num_inference_steps: int,
        guidance_scale: float,
        seed: int,
    ) -> cog.Path:
        """Make a video."""
        params = VideoParams(
            prompt, negative_prompt, height, width, num_frames, num_inference_steps, guidance_scale, seed
        )
        path = cog.Path(tempfile.mkdtemp()) / "video.mp4"
        self.pipeline.run(params, path)
        return path
