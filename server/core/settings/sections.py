"""The sections of the settings, one for each table of a configuration file."""

import re
from enum import StrEnum
from ipaddress import IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, IPvAnyNetwork, SecretStr, field_validator
from pydantic_settings import NoDecode

from pipelines.core.model import Attention, Compile
from pipelines.core.precision import Accuracy, PrecisionSetting
from pipelines.core.request import StepCaching
from server.core.logging import LogFormat
from server.core.settings.values import as_folder, as_origin

# a segment that begins with a dot could be ..
PATH_PREFIX = r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*/?"


ANY_HOST = "*"
"""Stands for every host in the setting `webhooks`."""


class WarmWorkers(StrEnum):
    """Whether workers are forked from a process that has imported the libraries; `auto`: if there is enough memory."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


class IfDown(StrEnum):
    """What becomes of a prompt whose language model is down: its generation fails, or is made of the original."""

    FAIL = "fail"
    ORIGINAL = "original"


class RecipeContents(StrEnum):
    """What of its recipe a video's file has: everything, everything but its prompts, or nothing."""

    FULL = "full"
    WITHOUT_PROMPTS = "without-prompts"
    OFF = "off"


class ServerSettings(BaseModel):
    """The server's address and kind of weights; `stop_grace` in seconds."""

    host: str = Field(default="127.0.0.1", min_length=1)
    port: int = Field(default=8000, ge=0, le=65535)
    public_url: str | None = Field(
        default=None,
        pattern=rf"^https?://[^\s/?#@\\]+{PATH_PREFIX}$",
        description="be http:// or https://, a host, and where needed a port and a path of plain characters, such as "
        "https://example.org/paddock",
    )
    demo: bool = False
    stop_grace: float = Field(default=10.0, gt=0)

    @field_validator("host")
    @classmethod
    def _plain_host(cls, host: str) -> str:
        """Return the usual spelling: an address without a URL's brackets, an IPv4 address that IPv6 wraps as IPv4."""
        try:
            address = ip_address(host[1:-1] if host.startswith("[") and host.endswith("]") else host)
        except ValueError:
            return "localhost" if host.lower() == "localhost" else host
        return str((isinstance(address, IPv6Address) and address.ipv4_mapped) or address)

    @property
    def is_loopback(self) -> bool:
        """Whether the server is reachable only from this machine."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


class SecuritySettings(BaseModel):
    """Access control: API keys, host names, origins and proxies."""

    api_keys: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], NoDecode] = ()
    first_key: bool = False
    allow_anonymous: bool = False
    allowed_hosts: Annotated[tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")], ...], NoDecode] = Field(
        default=(), description="be host names without scheme, port, wildcard or path"
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    fetch_urls: Literal["public", "off"] = "public"
    webhooks: Annotated[tuple[Annotated[str, Field(pattern=r"^(\*|[A-Za-z0-9._-]+)$")], ...], NoDecode] = Field(
        default=(), description="be host names without scheme, port or path, or * for all hosts"
    )
    trusted_proxies: Annotated[tuple[IPvAnyNetwork, ...], NoDecode] = Field(
        default=(ip_network("127.0.0.1"), ip_network("::1")),
        description="be IP addresses or networks, such as 10.0.0.5 or 172.30.83.0/24",
    )

    @field_validator("api_keys", "allowed_hosts", "cors_origins", "trusted_proxies", "webhooks", mode="before")
    @classmethod
    def _split(cls, listed: Any) -> Any:
        """Split the value of an environment variable at commas."""
        if isinstance(listed, str):
            return [one for part in listed.split(",") if (one := part.strip())]
        return [one.strip() if isinstance(one, str) else one for one in listed] if isinstance(listed, list) else listed

    @field_validator("webhooks")
    @classmethod
    def _as_hosts(cls, listed: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(ANY_HOST if one.lower() == "all" else one.lower().rstrip(".") for one in listed)

    @field_validator("cors_origins")
    @classmethod
    def _as_browsers_send(cls, listed: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(as_origin(one) for one in listed)


class StorageSettings(BaseModel):
    """Where the database and files are, and how long they are kept; sizes in bytes, `url_ttl` in seconds."""

    data_dir: Path = Path("~/.paddock")
    database_url: str | None = Field(
        default=None, pattern=r"^postgresql(\+psycopg)?://", description="begin with postgresql://"
    )
    files_url: str | None = Field(
        default=None,
        pattern=r"^(s3|gs|az)://[A-Za-z0-9._-]+(/[A-Za-z0-9._=-]+)*/?$",
        description="be s3://BUCKET, gs://BUCKET or az://CONTAINER, and where needed a path of plain characters; "
        "credentials come from the environment or files_credentials",
    )
    files_credentials: Path | None = None
    redirect_links: bool = False
    recipe: RecipeContents = RecipeContents.FULL
    min_free_bytes: int = Field(default=2**30, ge=0)
    retention_days: float = Field(default=0.0, ge=0)
    retention_bytes: int = Field(default=0, ge=0)
    url_ttl: float = Field(default=24 * 3600, gt=0)

    @field_validator("files_credentials")
    @classmethod
    def _expand_file_of_credentials(cls, path: Path | None) -> Path | None:
        return as_folder(path, "write the whole path") if path else path

    @field_validator("data_dir")
    @classmethod
    def _expand_data_dir(cls, path: Path) -> Path:
        return as_folder(path, "choose a folder with --data-dir or PADDOCK_DATA_DIR")


class ModelSettings(BaseModel):
    """Which models are served, and how they are computed."""

    models_dir: Path | None = None
    loras_dir: Path | None = None
    preload: str | None = None
    precision: PrecisionSetting = PrecisionSetting.AUTO
    accuracy: Accuracy = Accuracy.HIGH
    attention: Attention = Attention.AUTO
    compile: Compile = Compile.AUTO
    step_cache: StepCaching = StepCaching.EXACT

    @field_validator("models_dir", "loras_dir")
    @classmethod
    def _expand_dir(cls, path: Path | None) -> Path | None:
        return as_folder(path, "write the whole path") if path else path


def _as_torch(device: Any) -> Any:
    """A GPU as torch names it, of names that people use."""
    return re.sub(r"^(gpu|cuda)$", "cuda:0", device.replace("gpu:", "cuda:")) if isinstance(device, str) else device


class DeviceSettings(BaseModel):
    """Devices and how generations run on them; times in seconds."""

    device: Annotated[str, BeforeValidator(_as_torch)] = Field(
        default="auto", pattern=r"^(auto|cpu|cuda:\d+)$", description="be auto, cpu or cuda:N, N being a GPU's number"
    )
    idle_unload: float = Field(default=900.0, ge=0)
    warm_workers: WarmWorkers = WarmWorkers.AUTO
    checkpoint_interval: float = Field(default=5.0, ge=0)
    preview_interval: float = Field(default=1.0, ge=0)
    cancel_grace: float = Field(default=30.0, gt=0)


class ClusterSettings(BaseModel):
    """The Ray cluster whose devices are used instead of this machine's; `ray_checkpoint_interval` in seconds."""

    ray_address: str | None = Field(
        default=None,
        pattern=r"^(auto|[A-Za-z0-9._-]+:\d{1,5}|\[[0-9A-Fa-f:.]+\]:\d{1,5})$",
        description="be auto, for the cluster that this machine has joined, or host:port of its head",
    )
    ray_token_file: Path | None = None
    ray_checkpoint_interval: float = Field(default=15.0, ge=0)

    @field_validator("ray_token_file")
    @classmethod
    def _expand_file(cls, path: Path | None) -> Path | None:
        return as_folder(path, "write the whole path") if path else path


class QueueSettings(BaseModel):
    """Limits of requests and of the queue, and its order."""

    max_num_generations: int = Field(default=4, ge=1, le=12)
    max_queued: int = Field(default=10_000, ge=1)
    max_queued_per_key: int | None = Field(default=None, ge=1)
    max_failed_per_hour: int = Field(default=1000, ge=1)
    max_unstarted_bytes_per_hour: int = Field(default=2**28, ge=1)
    max_overtakes: int = Field(default=4, ge=0)
    max_prompt_chars: int = Field(default=10_000, ge=1)
    max_body_bytes: int = Field(default=1_000_000, ge=1024)
    max_connections_per_address: int = Field(default=512, ge=1)
    max_requests_per_key: int = Field(default=512, ge=1)


class EnhanceSettings(BaseModel):
    """The language model that rewrites prompts: behind an OpenAI-compatible endpoint, or in `enhance_folder`.

    `enhance_timeout` and `enhance_idle` in seconds.
    """

    enhance_url: str | None = Field(
        default=None,
        pattern=rf"^https?://[^\s/?#@\\]+{PATH_PREFIX}$",
        description="be http:// or https://, a host, and where needed a port and a path of plain characters, such as "
        "http://localhost:11434/v1",
    )
    enhance_model: str | None = Field(default=None, min_length=1, max_length=256)
    enhance_folder: Path | None = None
    enhance_idle: float = Field(default=0.0, ge=0)
    enhance_key: SecretStr | None = None
    enhance_key_file: Path | None = None
    enhance_timeout: float = Field(default=60.0, gt=0, le=600)
    enhance_sees_image: bool = False
    enhance_if_down: IfDown = IfDown.FAIL
    enhance_per_hour: int = Field(default=100, ge=1)
    enhance_prompts_dir: Path | None = None
    inspiration_styles: Path | None = None

    @field_validator("enhance_folder", "enhance_key_file", "enhance_prompts_dir", "inspiration_styles")
    @classmethod
    def _expand_path(cls, path: Path | None) -> Path | None:
        return as_folder(path, "write the whole path") if path else path


class LoggingSettings(BaseModel):
    """Level and format of the log."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: LogFormat = LogFormat.TEXT


class AdvancedSettings(BaseModel):
    """Timeouts and thresholds that rarely need a change; times in seconds."""

    head_timeout: float = Field(default=30.0, gt=0)
    body_timeout: float = Field(default=30.0, gt=0)
    event_replay: float = Field(default=10.0, ge=0)
    lease: float = Field(default=60.0, gt=1)
    worker_silence: float = Field(default=120.0, gt=1)
    stall_floor: float = Field(default=120.0, gt=1)
    stall_first: float = Field(default=3600.0, gt=1)
    stall_load: float = Field(default=1800.0, gt=1)
    unhealthy_after: int = Field(default=5, ge=1)
    unhealthy_cooldown: float = Field(default=60.0, gt=0)
    retention_grace: float = Field(default=3600.0, ge=60)
    worker_template: Path | None = None
