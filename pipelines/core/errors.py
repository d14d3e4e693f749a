"""Errors of loading and generating. The message of each can be shown to a user."""


class PipelineError(Exception):
    """Base class: a generation, a load or a catalogue failed. `str()` is a sentence for the user."""


class CatalogueError(PipelineError):
    """A model file in the catalogue is missing, malformed or contradicts another."""


class NoHomeError(PipelineError):
    """A path begins with `~`, and that user has no home folder."""


class WeightsNotFoundError(PipelineError):
    """This machine has no complete set of weights for a model."""


class FetchError(PipelineError):
    """Weights could not be downloaded from a hub."""


class HubUnreachableError(FetchError):
    """The hub does not answer, or the server at its address is not a hub."""


class HubAccessError(FetchError):
    """The hub does not have a repository or revision, or this user may not read it."""


class DiskSpaceError(FetchError):
    """The disk has too little room for a download."""


class DamagedFileError(FetchError):
    """A file differs from its checksum even after a second download."""


class UnsupportedModelError(PipelineError):
    """The weights are of a pipeline class or a layout that is not supported."""


class LoraError(PipelineError):
    """A LoRA that a request names is not on this machine, or cannot be applied to the loaded weights."""


class LoraNotFoundError(LoraError):
    """A file of a LoRA is not on this machine."""


class AttentionUnavailableError(PipelineError):
    """The requested attention kernel does not run on this device."""


class VideoParamsError(PipelineError, ValueError):
    """A parameter of a video has a value that no model can follow."""


class InputImageError(PipelineError):
    """The image of a request is missing, cannot be used by the model, or is not the one that the request names."""


class InputVideoError(PipelineError):
    """The video of a request is missing, cannot be read or used, is too short, or is not the one that it names."""


class InputAudioError(PipelineError):
    """The sound of a request is missing, or is not the one that it names."""


class SoundError(PipelineError):
    """The sound of a video could not be made."""


class RunnerError(PipelineError):
    """A runner is closed, or is making another video."""


class NonFiniteOutputError(PipelineError):
    """The model produced NaN or infinity, which cannot be shown as a video. `loras` names those of the request."""

    loras: tuple[str, ...] = ()

    def __str__(self) -> str:
        advice = "Another seed or a lower guidance_scale may avoid it."
        if self.loras:
            noun, them = ("LoRA", "it") if len(self.loras) == 1 else ("LoRAs", "them")
            advice = (
                f"The {noun} {', '.join(self.loras)} may be the cause: leave {them} out, or try a lower strength. "
                "Without LoRAs, another seed or a lower guidance_scale may avoid it."
            )
        return f"{super().__str__()} {advice}"


class DeviceError(PipelineError):
    """The driver of this machine's devices failed."""


class UnknownCardError(PipelineError):
    """A name is not that of one known card."""


class DeviceMemoryError(PipelineError):
    """No plan for a model or a video fits into the device's memory."""


class WeightFormatError(PipelineError):
    """Weights could not be converted to the format of a plan, or the disk has no room for them."""


class HostMemoryError(PipelineError):
    """No plan for a model fits into the host's memory."""


class MachineBusyError(PipelineError):
    """Other programs hold the device or the memory that a model needs: once they let go, the same may succeed."""


class EncodingError(PipelineError):
    """ffmpeg could not write the video."""


class GenerationCancelled(Exception):  # noqa: N818 - a request carried out, not an error
    """Raised inside a generation when its caller cancels it."""


class GenerationSuspended(Exception):  # noqa: N818 - a request carried out, not an error
    """Raised inside a generation after its state was saved for a later resume."""
