"""Every setting of the server, in one frozen object. The only module that reads the environment.

A value comes from the first of: a command-line option, a PADDOCK_ variable, the file named by --config or
PADDOCK_CONFIG, the default here (which `configs/server.toml` lists with a comment each).
"""

import os
from ipaddress import ip_address
from pathlib import Path
from tomllib import TOMLDecodeError
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import Field, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from pipelines.core.model import Attention, Compile
from pipelines.core.precision import PrecisionSetting
from pipelines.core.request import StepCaching
from server.core.logging import LogFormat

ENV_PREFIX = "PADDOCK_"


class UnreadableConfigError(Exception):
    """A configuration file that is missing, or that cannot be read as TOML."""


class Settings(BaseSettings):
    """All settings; times are in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    data_dir: Path = Path("~/.paddock")
    database_url: str | None = Field(default=None, pattern=r"^postgresql(\+psycopg)?://")
    demo: bool = False
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda:\d+)$")
    precision: PrecisionSetting = PrecisionSetting.AUTO
    attention: Attention = Attention.AUTO
    compile: Compile = Compile.AUTO
    step_cache: StepCaching = StepCaching.EXACT
    models_dir: Path | None = None
    preload: str | None = None
    api_keys: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], NoDecode] = ()
    first_key: bool = False
    allow_anonymous: bool = False
    allowed_hosts: Annotated[tuple[Annotated[str, Field(pattern=r"^[^\s/:]+$")], ...], NoDecode] = ()
    cors_origins: Annotated[tuple[Annotated[str, Field(pattern=r"^https?://[^\s/]+$")], ...], NoDecode] = ()
    public_url: str | None = Field(default=None, pattern=r"^https?://")
    url_ttl: float = Field(default=24 * 3600, gt=0)
    max_num_generations: int = Field(default=4, ge=1, le=12)
    max_queued: int = Field(default=10_000, ge=1)
    max_queued_per_key: int | None = Field(default=None, ge=1)
    max_overtakes: int = Field(default=4, ge=0)
    max_prompt_chars: int = Field(default=10_000, ge=1)
    max_body_bytes: int = Field(default=1_000_000, ge=1024)
    head_timeout: float = Field(default=30.0, gt=0)
    body_timeout: float = Field(default=30.0, gt=0)
    event_replay: float = Field(default=10.0, ge=0)
    cancel_grace: float = Field(default=30.0, gt=0)
    worker_silence: float = Field(default=120.0, gt=1)
    stall_floor: float = Field(default=120.0, gt=1)
    stall_first: float = Field(default=3600.0, gt=1)
    stall_load: float = Field(default=1800.0, gt=1)
    unhealthy_after: int = Field(default=5, ge=1)
    unhealthy_cooldown: float = Field(default=60.0, gt=0)
    checkpoint_interval: float = Field(default=5.0, ge=0)
    preview_interval: float = Field(default=1.0, ge=0)
    stop_grace: float = Field(default=10.0, gt=0)
    lease: float = Field(default=60.0, gt=1)
    idle_unload: float = Field(default=900.0, ge=0)
    min_free_bytes: int = Field(default=2**30, ge=0)
    retention_days: float = Field(default=0.0, ge=0)
    retention_bytes: int = Field(default=0, ge=0)
    retention_grace: float = Field(default=3600.0, ge=60)
    log_level: str = Field(default="info", pattern=r"^(debug|info|warning|error)$")
    log_format: LogFormat = LogFormat.TEXT

    @field_validator("data_dir", "models_dir")
    @classmethod
    def _expand_home(cls, path: Path | None) -> Path | None:
        return path.expanduser().absolute() if path else path

    @field_validator("api_keys", "allowed_hosts", "cors_origins", mode="before")
    @classmethod
    def _split(cls, listed: Any) -> Any:
        """An environment variable is one text: what it lists is parted by commas there."""
        if isinstance(listed, str):
            return [one for part in listed.split(",") if (one := part.strip())]
        return [one.strip() if isinstance(one, str) else one for one in listed] if isinstance(listed, list) else listed

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def names(self) -> tuple[str, ...]:
        """The names the server goes by, besides addresses and localhost."""
        public = [] if self.public_url is None else [urlsplit(self.public_url).hostname or ""]
        return (*self.allowed_hosts, *public, self.host)

    @property
    def writers(self) -> tuple[str, ...]:
        """The origins of other pages that may write: those named, and the server's own where a proxy renames it."""
        if self.public_url is None:
            return self.cors_origins
        public = urlsplit(self.public_url)
        return (*self.cors_origins, f"{public.scheme}://{public.netloc}")

    @property
    def records(self) -> str:
        """Where the records are, as a URL of SQLAlchemy's: a file in the data directory unless a database is named."""
        return self.database_url or f"sqlite:///{self.data_dir / 'paddock.db'}"

    @classmethod
    def load(cls, config: Path | None = None, **options: Any) -> "Settings":
        """Settings from the options given (None counts as not given), the environment and a TOML file.

        Raises pydantic.ValidationError for a value out of its limits or a key that does not exist, and
        UnreadableConfigError for a file that is missing or not TOML.
        """
        path = config or (Path(named).expanduser() if (named := os.environ.get(f"{ENV_PREFIX}CONFIG")) else None)
        if path is not None and not path.is_file():
            raise UnreadableConfigError(f"There is no configuration file {path}.")

        class FromFile(cls):  # type: ignore[valid-type, misc]
            model_config = SettingsConfigDict(toml_file=path)

        try:
            return FromFile(**{name: value for name, value in options.items() if value is not None})
        except (OSError, UnicodeDecodeError, TOMLDecodeError) as error:
            raise UnreadableConfigError(f"The configuration file {path} cannot be read: {error}") from error

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Options, then environment, then file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)
