"""The worker process: one device, one model at a time, orders in, reports out. The only door to the tensors."""

import gc
import logging
import queue
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.core.errors import GenerationCancelled, GenerationSuspended, PipelineError
from pipelines.core.model import ModelSpec
from pipelines.core.progress import Progress
from server.core.logging import ids
from server.engine.interface import WorkerOptions
from server.engine.protocol import (
    MAX_SENTENCE_CHARS,
    Cancelled,
    Checkpointed,
    DeviceFailed,
    Done,
    Failed,
    Load,
    LoadFailed,
    Loading,
    Previewed,
    Progressed,
    Ready,
    Rendered,
    Run,
    Suspended,
    Unload,
    Unloaded,
)
from server.engine.worker.link import Link, leave

if TYPE_CHECKING:
    from pipelines.runner.callbacks import Callbacks
    from pipelines.runner.oom_fallback import OutOfMemoryFallback
    from pipelines.runner.result import RenderedVideo
    from pipelines.stages.checkpoint import Checkpoint
    from pipelines.stages.preview.preview import Preview

IDLE_SECONDS = 2.0
"""A worker without orders for as long looks after what was made for it in the background."""


log = logging.getLogger("paddock.worker")


class Worker:
    """Carries out orders, one after another."""

    def __init__(self, link: Link, options: WorkerOptions) -> None:
        self._link = link
        self._options = options
        self._loaded: tuple[Load, OutOfMemoryFallback] | None = None
        self._files = ThreadPoolExecutor(1, thread_name_prefix="files")

    def serve(self) -> None:
        """Work until the server goes away."""
        while True:
            try:
                order = self._link.orders.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                if self._loaded is not None:
                    self._loaded[1].adopt_compiled()
                continue
            match order:
                case Load():
                    self._answer(self._load(order))
                case Run():
                    self._answer(self._run(order))
                    self._link.forget_stops()
                case Unload():
                    self._unload()
                    self._link.send(Unloaded())

    def _answer(self, report: Ready | LoadFailed | Failed | Cancelled | Suspended | None) -> None:
        if report is None:
            return
        if self._loaded is not None and not isinstance(report, Ready):
            # only here has the exception, and with it every tensor its frames held, been let go
            self._loaded[1].release()
        self._link.send(report)

    def _load(self, order: Load) -> Ready | LoadFailed:
        model_id = order.model_id
        try:
            if self._loaded is None or self._loaded[0] != order:
                self._unload()
                self._loaded = (order, self._read(model_id, order.spec))
            # a ladder that ran out of memory has let go of the model, and loads it again here
            return Ready(model_id=model_id, fingerprint=self._loaded[1].fingerprint)
        except PipelineError as error:
            return LoadFailed(model_id=model_id, message=str(error))
        except Exception as error:
            log.exception("loading %s failed", model_id)
            self._end_with_device()
            return LoadFailed(model_id=model_id, message=f"Loading {model_id} failed: {_words(error)}")

    def _read(self, model_id: str, spec: ModelSpec) -> "OutOfMemoryFallback":
        def report(component: str, fraction: float) -> None:
            self._link.send(Loading(model_id=model_id, component=component, fraction=fraction))

        report("libraries", 0.0)
        _import_libraries()
        from pipelines.demo.folder import demo_folder
        from pipelines.hub import local as weights
        from pipelines.loading.load import silence_progress_bars
        from pipelines.runner.oom_fallback import OutOfMemoryFallback

        silence_progress_bars()
        cache = Path(self._options.cache)
        if self._options.demo:
            folder, spec = demo_folder(), spec.for_other_weights()
        else:
            folder = weights.locate(spec)
        return OutOfMemoryFallback.load(spec, folder, self._options.device, report, cache)

    def _unload(self) -> None:
        if self._loaded is not None:
            self._loaded[1].close()
            self._loaded = None

    def _run(self, order: Run) -> Failed | Cancelled | Suspended | None:
        assert self._loaded is not None, "the server loads a model before it runs one"
        try:
            video = self._loaded[1].render(
                order.params, Path(self._options.artifacts) / order.artifact, self._callbacks(order)
            )
        except GenerationCancelled:
            return Cancelled(**_about(order))
        except GenerationSuspended:
            return Suspended(**_about(order))
        except PipelineError as error:
            return Failed(**_about(order), message=str(error))
        except Exception as error:
            log.exception("generation %s failed", order.generation_id, extra=ids(order.generation_id, order.attempt))
            self._end_with_device()
            return Failed(**_about(order), message=f"The generation failed: {_words(error)}")
        # first, since a file may be finished at once
        self._link.send(Rendered(**_about(order)))
        self._files.submit(self._finish, order, video, self._loaded[1].fingerprint)
        return None

    def _finish(self, order: Run, video: "RenderedVideo", fingerprint: dict[str, str]) -> None:
        try:
            file = video.finish()
        except PipelineError as error:
            self._link.send(Failed(**_about(order), message=str(error)))
        except Exception as error:
            log.exception("the file of %s failed", order.generation_id, extra=ids(order.generation_id, order.attempt))
            self._link.send(Failed(**_about(order), message=f"The generation failed: {_words(error)}"))
        else:
            done = Done(**_about(order), artifact=order.artifact, fingerprint=fingerprint, stats=file.stats)
            self._link.send(done)

    def _callbacks(self, order: Run) -> "Callbacks":
        from pipelines.runner.callbacks import Callbacks

        def report(progress: Progress) -> None:
            self._link.send(
                Progressed(
                    **_about(order),
                    stage=progress.stage,
                    step=progress.step,
                    steps=progress.steps,
                    fraction=progress.fraction,
                    seconds=progress.seconds,
                )
            )

        return Callbacks(
            on_progress=report,
            cancelled=lambda: self._link.is_cancelled(order),
            checkpoint=self._checkpoint(order),
            preview=self._preview(order),
            upcoming=self._link.upcoming,
        )

    def _checkpoint(self, order: Run) -> "Checkpoint | None":
        from pipelines.stages.checkpoint import Checkpoint

        if self._options.checkpoint_interval == 0:
            return None
        return Checkpoint(
            Path(self._options.checkpoints) / order.checkpoint,
            self._options.checkpoint_interval,
            suspended=lambda: self._link.is_suspended(order),
            on_saved=lambda fraction: self._link.send(Checkpointed(**_about(order), fraction=fraction)),
        )

    def _preview(self, order: Run) -> "Preview | None":
        from pipelines.stages.preview.preview import Preview

        if self._options.preview_interval == 0:
            return None
        return Preview(
            Path(self._options.previews) / order.preview,
            self._options.preview_interval,
            on_written=lambda step: self._link.send(Previewed(**_about(order), step=step)),
        )

    def _end_with_device(self) -> None:
        """End this process if its device fails: all else that it would be asked to do would fail with it."""
        if "torch" not in sys.modules:
            # it was the libraries that could not be loaded
            return
        from pipelines.runner.device_health import fault

        if (why := fault(self._options.device)) is not None:
            self._link.send(DeviceFailed(message=why[:MAX_SENTENCE_CHARS]))
            leave(1)


def _import_libraries() -> None:
    """Import torch and its kin, which stay as long as the process and are of no interest to the garbage collector.

    Walking what they define, 400,000 objects, would take a fifth of the time of importing them, and a third of a second
    after each generation that is cut short.
    """
    if "pipelines.runner.oom_fallback" in sys.modules:
        return
    gc.disable()
    try:
        import pipelines.runner.oom_fallback  # noqa: F401 - here is where it is paid for
    finally:
        gc.freeze()
        gc.enable()


def _about(order: Run) -> dict[str, Any]:
    """What every report of a run begins with."""
    return {"generation_id": order.generation_id, "attempt": order.attempt}


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:MAX_SENTENCE_CHARS]
