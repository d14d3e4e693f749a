"""The worker: one device and one model at a time. It carries out orders and sends reports; only it holds tensors."""

import errno
import gc
import logging
import os
import queue
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.core.errors import (
    GenerationCancelled,
    GenerationSuspended,
    InputImageError,
    LoraNotFoundError,
    MachineBusyError,
    PipelineError,
    WeightsNotFoundError,
)
from pipelines.core.home import expanded
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
    Order,
    Previewed,
    Progressed,
    Ready,
    Rendered,
    Run,
    Suspended,
    Unload,
    Unloaded,
    Warned,
)
from server.engine.worker.link import Link, exit_now
from server.recipe.recipe import compose

if TYPE_CHECKING:
    from PIL import Image

    from pipelines.runner.callbacks import Callbacks
    from pipelines.runner.oom_fallback import OutOfMemoryFallback
    from pipelines.runner.result import RenderedVideo
    from pipelines.stages.checkpoint import Checkpoint
    from pipelines.stages.preview.preview import Preview

_LACKS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)

IDLE_SECONDS = 2.0
"""A worker that is idle for so long adopts what was compiled in the background."""


log = logging.getLogger("paddock.worker")


class Worker:
    """Carries out orders, one after another."""

    def __init__(self, link: Link, options: WorkerOptions) -> None:
        self._link = link
        self._options = options
        self._loaded: tuple[Load, OutOfMemoryFallback] | None = None
        self._files = ThreadPoolExecutor(1, thread_name_prefix="files")

    def serve(self) -> None:
        """Work until the connection to the server ends."""
        while True:
            try:
                order = self._link.orders.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                if self._loaded is not None:
                    self._loaded[1].adopt_compiled()
            else:
                self._carry_out(order)
            self._link.compile_error = None if self._loaded is None else self._loaded[1].compile_error

    def _carry_out(self, order: Order) -> None:
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
            # only here the exception is gone, and with it every tensor that its stack frames held
            self._loaded[1].release()
        self._link.send(report)

    def _load(self, order: Load) -> Ready | LoadFailed:
        model_id = order.model_id
        try:
            if self._loaded is None or self._loaded[0] != order:
                try:
                    folder, spec = self._locate(order.spec)
                except WeightsNotFoundError as error:
                    # what is loaded is not in the way, and may be needed next
                    return LoadFailed(model_id=model_id, message=str(error), is_missing=True, has_kept=True)
                except Exception:
                    self._unload()
                    raise
                self._unload()
                self._loaded = (order, self._read(model_id, folder, spec))
            # a fallback that ran out of memory has unloaded the model, and loads it again here
            return Ready(model_id=model_id, fingerprint=self._loaded[1].fingerprint)
        except MachineBusyError as error:
            # the next load makes another plan
            self._unload()
            return LoadFailed(model_id=model_id, message=str(error), temporary=True)
        except Exception as error:
            if (lack := lacking(error)) is not None:
                self._unload()
                return LoadFailed(model_id=model_id, message=f"A worker cannot go on: {lack}.", temporary=True)
            if isinstance(error, PipelineError):
                is_missing = isinstance(error, WeightsNotFoundError)
                return LoadFailed(model_id=model_id, message=str(error), is_missing=is_missing)
            log.exception("loading %s failed", model_id)
            self._exit_if_device_failed()
            return LoadFailed(model_id=model_id, message=f"Loading {model_id} failed: {_describe(error)}")

    def _locate(self, spec: ModelSpec) -> tuple[Path, ModelSpec]:
        """The folder with the weights, and their specification; raises WeightsNotFoundError."""
        from pipelines.demo.folder import demo_folder, demo_sound
        from pipelines.hub import local as weights

        if self._options.demo:
            return demo_folder(), replace(spec.for_other_weights(), sound=demo_sound())
        return weights.locate(spec), spec

    def _read(self, model_id: str, folder: Path, spec: ModelSpec) -> "OutOfMemoryFallback":
        def report(component: str, fraction: float) -> None:
            self._link.send(Loading(model_id=model_id, component=component, fraction=fraction))

        report("libraries", 0.0)
        import_libraries()
        from pipelines.loading.load import silence_progress_bars
        from pipelines.runner.oom_fallback import OutOfMemoryFallback

        silence_progress_bars()
        cache, loras = Path(self._options.cache), self._options.loras
        loras_dir = None if loras is None else Path(loras)
        return OutOfMemoryFallback.load(spec, folder, self._options.device, report, cache, loras_dir)

    def _unload(self) -> None:
        if self._loaded is not None:
            self._loaded[1].close()
            self._loaded = None

    def _run(self, order: Run) -> Failed | Cancelled | Suspended | None:
        assert self._loaded is not None, "the server loads a model before it runs one"
        try:
            video = self._loaded[1].render(
                order.params,
                Path(self._options.artifacts) / order.artifact,
                self._callbacks(order),
                self._image(order, order.image),
                self._image(order, order.last_image),
                video=self._input(order.video),
                extends=self._input(order.extends),
                audio=self._input(order.audio),
            )
        except GenerationCancelled:
            return Cancelled(**_about(order))
        except GenerationSuspended:
            return Suspended(**_about(order))
        except MachineBusyError as error:
            # the next load makes another plan
            self._unload()
            return Failed(**_about(order), message=str(error), temporary=True)
        except PipelineError as error:
            is_missing = isinstance(error, LoraNotFoundError)
            return Failed(**_about(order), message=str(error), is_missing=is_missing)
        except Exception as error:
            log.exception("generation %s failed", order.generation_id, extra=ids(order.generation_id, order.attempt))
            self._exit_if_device_failed()
            return Failed(**_about(order), message=f"The generation failed: {_describe(error)}")
        # first, since a file may be finished at once
        self._link.send(Rendered(**_about(order)))
        self._files.submit(self._finish, order, video, self._loaded[1].video_fingerprint)
        return None

    def _input(self, key: str | None) -> Path | None:
        return None if key is None else Path(self._options.inputs) / key

    def _image(self, order: Run, key: str | None) -> "Image.Image | None":
        from PIL import Image, UnidentifiedImageError

        if key is None:
            return None
        try:
            with Image.open(Path(self._options.inputs, key), formats=("PNG",)) as image:
                image.load()
                return image
        except (OSError, UnidentifiedImageError, SyntaxError) as error:
            log.warning("the image of %s cannot be read: %s", order.generation_id, error)
            raise InputImageError("The request's image cannot be read any more.") from error

    def _finish(self, order: Run, video: "RenderedVideo", fingerprint: dict[str, str]) -> None:
        try:
            file = video.finish()
        except PipelineError as error:
            self._link.send(Failed(**_about(order), message=str(error)))
        except Exception as error:
            log.exception("the file of %s failed", order.generation_id, extra=ids(order.generation_id, order.attempt))
            self._link.send(Failed(**_about(order), message=f"The generation failed: {_describe(error)}"))
        else:
            facts = {"fingerprint": fingerprint, "stats": file.stats, "has_audio": file.has_audio}
            self._link.send(Done(**_about(order), artifact=order.artifact, **facts))

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
            on_warnings=lambda warnings: self._link.send(Warned(**_about(order), warnings=warnings)),
            comment=lambda fingerprint: self._recipe(order, fingerprint),
        )

    def _recipe(self, order: Run, fingerprint: Mapping[str, str]) -> str | None:
        assert self._loaded is not None, "a model is loaded while it runs"
        load, spec = self._loaded[0], self._loaded[0].spec
        is_of_hub = not self._options.demo and not expanded(spec.repo, "repo").is_dir()
        published = (spec.repo, spec.revision) if is_of_hub else (None, None)
        return compose(self._options.recipe, load.model_id, order.params, order.asked_prompt, fingerprint, *published)

    def _checkpoint(self, order: Run) -> "Checkpoint | None":
        from pipelines.stages.checkpoint import Checkpoint

        if self._options.checkpoint_interval == 0:
            return None
        folder = Path(self._options.checkpoints)
        return Checkpoint(
            folder / order.checkpoint,
            self._options.checkpoint_interval,
            suspended=lambda: self._link.is_suspended(order),
            on_saved=lambda fraction: self._link.send(Checkpointed(**_about(order), fraction=fraction)),
            resume_from=None if order.resume_from is None else folder / order.resume_from,
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

    def _exit_if_device_failed(self) -> None:
        """End this process if its device has failed: everything else would fail on it too."""
        if "torch" not in sys.modules:
            # the libraries could not be imported
            return
        from pipelines.runner.device_health import fault

        if (why := fault(self._options.device)) is not None:
            self._link.send(DeviceFailed(message=why[:MAX_SENTENCE_CHARS]))
            exit_now(1)


def silence_libraries() -> None:
    """Drop the warnings that libraries print at their import."""
    # diffusers imports torchao if it is installed, and both warn about kernels and formats that are not used here
    # and for a part of image pipelines that is not used, transformers falls back to another one of the same effect
    for name in (
        *("torchao", "torch.utils._pytree", "diffusers.quantizers.torchao.torchao_quantizer"),
        "transformers.utils.import_utils",
    ):
        logging.getLogger(name).setLevel(logging.ERROR)


def import_libraries() -> None:
    """Import torch and the libraries on it, and exempt their objects from garbage collection.

    They live as long as the process. Traversing their 400,000 objects would take a fifth of the import time, and a
    third of a second after each generation that is stopped early.
    """
    if "pipelines.runner.oom_fallback" in sys.modules:
        return
    gc.disable()
    try:
        import pipelines.runner.oom_fallback  # noqa: F401 - imported here for the time it takes
    finally:
        gc.freeze()
        gc.enable()


def lacking(error: BaseException) -> str | None:
    """The system's words for what it has no more of, if that caused an error: file descriptors, for example."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _LACKS:
            return os.strerror(seen.errno)
        if isinstance(seen, ImportError):
            # the dynamic linker gives no number
            found = next((said for said in map(os.strerror, _LACKS) if said in str(seen)), None)
            if found is not None:
                return found
        seen = seen.__cause__
    return None


def _about(order: Run) -> dict[str, Any]:
    """The fields that every report of a run has."""
    return {"generation_id": order.generation_id, "attempt": order.attempt}


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:MAX_SENTENCE_CHARS]
