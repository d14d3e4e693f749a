"""All settings together. This is the only module that reads PADDOCK_ environment variables.

A value comes from the first of: a command-line option, a PADDOCK_ variable, the file named by --config or
PADDOCK_CONFIG, the default of its section. `configs/server.toml` lists every default with a comment.

The file groups settings in tables, one per section class. A consumer should take only the sections it needs.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from pydantic import BaseModel, PrivateAttr
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from pipelines.core.home import expanded
from server.core.settings.config_file import read_tables
from server.core.settings.sections import (
    AdvancedSettings,
    ClusterSettings,
    DeviceSettings,
    EnhanceSettings,
    LoggingSettings,
    ModelSettings,
    QueueSettings,
    SecuritySettings,
    ServerSettings,
    StorageSettings,
)

ENV_PREFIX = "PADDOCK_"

TABLES: Mapping[str, type[BaseModel]] = {
    "server": ServerSettings,
    "security": SecuritySettings,
    "storage": StorageSettings,
    "models": ModelSettings,
    "devices": DeviceSettings,
    "cluster": ClusterSettings,
    "queue": QueueSettings,
    "enhance": EnhanceSettings,
    "logging": LoggingSettings,
    "advanced": AdvancedSettings,
}
"""The section class of each table in a configuration file."""


class Settings(
    ServerSettings,
    SecuritySettings,
    StorageSettings,
    ModelSettings,
    DeviceSettings,
    ClusterSettings,
    QueueSettings,
    EnhanceSettings,
    LoggingSettings,
    AdvancedSettings,
    BaseSettings,
):
    """All settings."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="forbid")

    _file: ClassVar[Mapping[str, Any]] = {}
    _warnings: tuple[str, ...] = PrivateAttr(())

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences about what to change in the configuration file."""
        return self._warnings

    @property
    def host_names(self) -> tuple[str, ...]:
        """The accepted host names, besides IP addresses and localhost."""
        public = [] if self.public_url is None else [urlsplit(self.public_url).hostname or ""]
        return (*self.allowed_hosts, *public, self.host)

    @property
    def public_path(self) -> str | None:
        """The path of `public_url` without a trailing slash, None without `public_url`."""
        return None if self.public_url is None else urlsplit(self.public_url).path.rstrip("/")

    @property
    def write_origins(self) -> tuple[str, ...]:
        """The origins whose pages may write: `cors_origins` and the origin of `public_url`."""
        if self.public_url is None:
            return self.cors_origins
        public = urlsplit(self.public_url)
        return (*self.cors_origins, f"{public.scheme}://{public.netloc}")

    @classmethod
    def load(cls, config: Path | None = None, **options: Any) -> "Settings":
        """Load settings from options (None: not given), the environment and a TOML file.

        Raises pydantic.ValidationError for a value outside its limits, and ConfigFileError for a file that is missing,
        is not TOML, or has an unknown table or key. Raises NoHomeError for the file's path as `expanded` does.
        """
        named = os.environ.get(f"{ENV_PREFIX}CONFIG", "").strip()
        path = config or (expanded(named, f"{ENV_PREFIX}CONFIG") if named else None)
        values, warnings = ({}, []) if path is None else read_tables(path, TABLES)

        class WithFile(cls):  # type: ignore[valid-type, misc]
            _file: ClassVar[Mapping[str, Any]] = values

        settings: Settings = WithFile(**{name: value for name, value in options.items() if value is not None})
        settings._warnings = tuple(warnings)
        return settings

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources by precedence: options, environment, file. Empty ones and Kubernetes' do not count."""
        values = {name: value.strip() if isinstance(value, str) else value for name, value in env_settings().items()}
        is_link = str(values.get("port")).startswith(("tcp://", "udp://"))
        environment = {name: each for name, each in values.items() if each != "" and not (is_link and name == "port")}
        return tuple(InitSettingsSource(settings_cls, each) for each in (init_settings(), environment, dict(cls._file)))
