"""The rewriter that the settings describe."""

from pathlib import Path

from server.core.settings.sections import EnhanceSettings
from server.enhance.endpoint import ChatEndpoint
from server.enhance.files import UnusableFileError
from server.enhance.rewriter import Rewriter
from server.enhance.styles import Styles
from server.enhance.system_prompts import SystemPrompts

SETTINGS = "settings enhance_url and enhance_model"
"""What an operator sets, as a part of sentences."""

_MAX_KEY_BYTES = 8192


class EnhanceSettingsError(Exception):
    """The settings do not make a rewriter; `str()` is a sentence."""


def configured_rewriter(settings: EnhanceSettings) -> Rewriter | None:
    """The rewriter of the settings, None if they name no model. Reads the files that they name.

    Raises EnhanceSettingsError.
    """
    url, model = settings.enhance_url, settings.enhance_model
    if (url is None) != (model is None):
        raise EnhanceSettingsError(f"The {SETTINGS} belong together: set both, or none.")
    if settings.enhance_key is not None and settings.enhance_key_file is not None:
        raise EnhanceSettingsError("The settings enhance_key and enhance_key_file exclude each other: set one of them.")
    if url is None or model is None:
        return None
    key = None if settings.enhance_key is None else settings.enhance_key.get_secret_value()
    if settings.enhance_key_file is not None:
        key = _key_in(settings.enhance_key_file)
    if key is not None and not (key and key.isascii() and key.isprintable() and " " not in key):
        raise EnhanceSettingsError("The key of the setting enhance_url must be printable ASCII without spaces.")
    try:
        prompts = SystemPrompts.read(settings.enhance_prompts_dir)
    except UnusableFileError as error:
        raise EnhanceSettingsError(str(error)) from error
    return Rewriter(ChatEndpoint(url, model, key, settings.enhance_timeout), prompts)


def configured_styles(settings: EnhanceSettings) -> Styles:
    """The style cards of the settings. Raises EnhanceSettingsError."""
    try:
        return Styles.read(settings.inspiration_styles)
    except UnusableFileError as error:
        raise EnhanceSettingsError(str(error)) from error


def _key_in(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_KEY_BYTES).decode().strip()
    except OSError as error:
        raise EnhanceSettingsError(f"{path} (setting enhance_key_file) cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise EnhanceSettingsError(f"{path} (setting enhance_key_file) is not text in UTF-8.") from error
