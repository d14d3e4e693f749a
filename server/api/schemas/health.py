"""Schemas of health and readiness."""

from typing import Literal

from pydantic import BaseModel

from pipelines.models.catalogue import DEFAULT_MODEL
from server import __version__
from server.api.schemas.example import PLAN, example
from server.api.schemas.fields import Bytes


class Health(BaseModel):
    """The process responds."""

    status: Literal["ok"]
    version: str

    model_config = example({"status": "ok", "version": __version__})


class Memory(BaseModel):
    """Free and total memory in bytes."""

    free: Bytes
    total: Bytes


class DeviceState(BaseModel):
    """A device, the model it holds and the plan of its weights. `loading` is the fraction (0 to 1) that is loaded.

    `error` is the last error; it is cleared when a generation succeeds. `failures` counts worker deaths since the
    server started. `retry_in` is the time in seconds until a quarantined device is tried again. `drain` is set for a
    device whose host is drained: it takes nothing more. `used_elsewhere` is set while another server uses the device,
    which is possible in a cluster only. `memory` is the memory of a GPU, known while a worker uses it. `compile_error`
    is why the blocks of the loaded model run uncompiled, and so slower, if compiling them failed.
    """

    device: str
    model: str | None
    plan: str | None
    loading: float | None
    busy: bool
    used_elsewhere: bool
    error: str | None
    compile_error: str | None
    health: Literal["healthy", "unhealthy", "half_open"]
    failures: int
    retry_in: float | None
    drain: Literal["draining", "drained"] | None
    memory: Memory | None


class Readiness(BaseModel):
    """The server accepts generations. `free_bytes` is the free space on the disk of the data directory."""

    status: Literal["ready"]
    version: str
    demo: bool
    queued: int
    free_bytes: Bytes | None
    host_memory: Memory
    devices: list[DeviceState]

    model_config = example(
        {
            "status": "ready",
            "version": __version__,
            "demo": False,
            "queued": 3,
            "free_bytes": 250_000_000_000,
            "host_memory": {"free": 40_000_000_000, "total": 68_000_000_000},
            "devices": [
                {
                    "device": "cuda:0",
                    "model": DEFAULT_MODEL,
                    "plan": PLAN,
                    "loading": None,
                    "busy": True,
                    "used_elsewhere": False,
                    "error": None,
                    "compile_error": None,
                    "health": "healthy",
                    "failures": 0,
                    "retry_in": None,
                    "drain": None,
                    "memory": {"free": 2_000_000_000, "total": 25_000_000_000},
                }
            ],
        }
    )
