"""Health and readiness."""

from typing import Literal

from pydantic import BaseModel

from pipelines.core.catalogue import DEFAULT_MODEL
from server.api.schemas.example import PLAN, example


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"]
    version: str

    model_config = example({"status": "ok", "version": "0.1.0"})


class Memory(BaseModel):
    """Bytes that are free, and all there are."""

    free: int
    total: int


class DeviceState(BaseModel):
    """A device and what it holds, laid out by which plan; `loading` is how much (0 … 1) of the model is read.

    `error` is what went wrong last, until a generation is finished; `failures` counts the deaths of its workers since
    the server started; `retry_in` is how many seconds it is left alone, if it is. `memory` is a card's, while a worker
    uses it.
    """

    device: str
    model: str | None
    plan: str | None
    loading: float | None
    busy: bool
    error: str | None
    health: Literal["healthy", "unhealthy", "half_open"]
    failures: int
    retry_in: float | None
    memory: Memory | None


class Readiness(BaseModel):
    """Whether generations are accepted, and what the devices are doing; `free_bytes` is on the data's disk."""

    status: Literal["ready"]
    version: str
    demo: bool
    queued: int
    free_bytes: int | None
    host_memory: Memory
    devices: list[DeviceState]

    model_config = example(
        {
            "status": "ready",
            "version": "0.1.0",
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
                    "error": None,
                    "health": "healthy",
                    "failures": 0,
                    "retry_in": None,
                    "memory": {"free": 2_000_000_000, "total": 25_000_000_000},
                }
            ],
        }
    )
