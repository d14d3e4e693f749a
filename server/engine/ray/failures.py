"""Sentences for what Ray says when a cluster cannot be used."""

from importlib.util import find_spec

_SAID_CHARS = 300

_NO_ANSWER = "The cluster at {address} does not answer, or this machine has not joined it with `paddock cluster join`."
_NO_CLUSTER = (
    "This machine is in no cluster, or the cluster's head does not answer. `paddock cluster head` starts one here, "
    "`paddock cluster join` joins one."
)


class ClusterError(Exception):
    """The cluster cannot be used; `str()` is a sentence. `is_permanent`: nothing but a change of this machine helps."""

    def __init__(self, sentence: str, *, is_permanent: bool = False) -> None:
        super().__init__(sentence)
        self.is_permanent = is_permanent


def check_installed() -> None:
    """Raise ClusterError unless Ray is installed."""
    if find_spec("ray") is None:
        raise ClusterError("A cluster needs Ray: pip install 'paddock[cluster]'.", is_permanent=True)


def no_answer(error: Exception) -> str:
    """The sentence for a call of Ray's that failed after the cluster was connected."""
    return f"The head of the Ray cluster does not answer: {' '.join(str(error).split())}"


def explain(address: str | None, said: str) -> ClusterError:
    """The error for the words of Ray, which may be many lines, about a cluster's address; None: this machine's head."""
    words = " ".join(said.split())
    if "AuthenticationError" in words or "Unauthenticated" in words or "InvalidAuthToken" in words:
        return ClusterError(f"The cluster at {address} refuses this machine's token.", is_permanent=True)
    if "ersion mismatch" in words:
        found = words[words.index("ersion mismatch") - 1 :][:_SAID_CHARS]
        return ClusterError(f"The cluster at {address} runs other versions. {found}", is_permanent=True)
    if "ddress already in use" in words or "is not available" in words:
        return ClusterError(
            "A port of the cluster is used by another program on this machine. Choose others with --port.",
            is_permanent=True,
        )
    if address is None:
        return ClusterError(f"The head of the cluster has ended: {words[-_SAID_CHARS:]}")
    if not words or "onnect" in words:
        return ClusterError(_NO_CLUSTER if address == "auto" else _NO_ANSWER.format(address=address))
    return ClusterError(f"The cluster at {address} cannot be used: {words[-_SAID_CHARS:]}")
