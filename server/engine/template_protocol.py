"""The messages between a server and a template process, one JSON object a packet."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

MAX_BYTES = 2**17
"""The largest packet: a request carries the server's whole environment."""

_READ_AT_IMPORT = (
    "CUDA",
    "DIFFUSERS",
    "GOMP",
    "HF_",
    "KMP",
    "LD_",
    "MALLOC",
    "MKL",
    "NVIDIA",
    "OMP",
    "OPENBLAS",
    "PYTHON",
    "PYTORCH",
    "TORCH",
    "TRANSFORMERS",
    "USE_",
    "XDG_",
)


def import_time_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that libraries read when a program starts: a fork cannot change them."""
    return {name: value for name, value in environment.items() if name.startswith(_READ_AT_IMPORT)}


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ForkRequest(_Message):
    """Fork a worker that runs `module` with `options` (JSON) in the folder `cwd`.

    Its connection and its log come along as descriptors.
    """

    module: str
    options: str
    cwd: str
    environment: dict[str, str]


class Warm(_Message):
    """The libraries are imported; `environment` is what they read then."""

    kind: Literal["warm"] = "warm"
    environment: dict[str, str]


class Unfit(_Message):
    """The template cannot fork workers, for this reason."""

    kind: Literal["unfit"] = "unfit"
    reason: str


class Forked(_Message):
    """A worker runs. Its pidfd comes along."""

    kind: Literal["forked"] = "forked"
    pid: int


class Exited(_Message):
    """A worker ended with this exit status, or by a signal (negative)."""

    kind: Literal["exited"] = "exited"
    pid: int
    status: int


TEMPLATE_MESSAGE: TypeAdapter[Warm | Unfit | Forked | Exited] = TypeAdapter(
    Annotated[Warm | Unfit | Forked | Exited, Field(discriminator="kind")]
)
