"""What can go wrong between a prompt and a video, each with a sentence fit to show a user."""


class PipelineError(Exception):
    """A generation, a load or a catalogue that cannot go on; `str()` is the sentence for the user."""


class CatalogueError(PipelineError):
    """A model file in the catalogue is missing, malformed or contradicts another."""


class WeightsNotFoundError(PipelineError):
    """No complete set of weights for a model on this machine."""


class FetchError(PipelineError):
    """Weights could not be fetched from a hub."""


class HubUnreachableError(FetchError):
    """No hub answers, or what answers is none."""


class HubAccessError(FetchError):
    """The hub does not have a repository or revision, or does not give it to this user."""


class DiskSpaceError(FetchError):
    """The disk has no room for what is to be fetched."""


class DamagedFileError(FetchError):
    """A file is not what the hub says it is, even when fetched again."""


class UnsupportedModelError(PipelineError):
    """A folder of weights that names a pipeline class this program does not drive."""


class AttentionUnavailableError(PipelineError):
    """The attention kernel that is asked for does not run on this device."""


class NonFiniteOutputError(PipelineError):
    """The model produced NaN or infinity: nothing a player could show."""


class DeviceError(PipelineError):
    """The driver of this machine's devices fails."""


class DeviceMemoryError(PipelineError):
    """The device's memory does not suffice for a model or a video, by whichever plan."""


class WeightFormatError(PipelineError):
    """The disk has no room for weights in the form a plan keeps them in."""


class HostMemoryError(PipelineError):
    """The host's memory does not suffice to load a model, by whichever plan."""


class EncodingError(PipelineError):
    """ffmpeg could not write the video."""


class GenerationCancelled(Exception):  # noqa: N818 - an order carried out, not an error
    """Raised inside a generation when its caller asked it to stop."""


class GenerationSuspended(Exception):  # noqa: N818 - an order carried out, not an error
    """Raised inside a generation when its state was saved, to be gone on with later."""
