"""The rewriter that the settings describe."""

from pathlib import Path

from server.core.settings.sections import EnhanceSettings
from server.enhance.demo_grammar import DemoGrammar
from server.enhance.endpoint import ChatEndpoint
from server.enhance.files import UnusableFileError
from server.enhance.local_model import LocalModel
from server.enhance.rewriter import PromptRewriter, Rewriter
from server.enhance.styles import Styles
from server.enhance.system_prompts import SystemPrompts

SETTINGS = "settings enhance_url and enhance_model, or enhance_folder"
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
        raise EnhanceSettingsError("The settings enhance_url and enhance_model belong together: set both, or none.")
    if settings.enhance_key is not None and settings.enhance_key_file is not None:
        raise EnhanceSettingsError("The settings enhance_key and enhance_key_file exclude each other: set one of them.")
    if settings.enhance_folder is not None:
        return Rewriter(_local(settings, settings.enhance_folder), _prompts(settings))
    if url is None or model is None:
        return None
    key = None if settings.enhance_key is None else settings.enhance_key.get_secret_value()
    if settings.enhance_key_file is not None:
        key = _key_in(settings.enhance_key_file)
    if key is not None and not (key and key.isascii() and key.isprintable() and " " not in key):
        raise EnhanceSettingsError("The key of the setting enhance_url must be printable ASCII without spaces.")
    return Rewriter(ChatEndpoint(url, model, key, settings.enhance_timeout), _prompts(settings))


def prompt_rewriter(settings: EnhanceSettings, *, demo: bool) -> PromptRewriter | None:
    """The rewriter of the settings; in the demo its grammar, if they name no model. Raises EnhanceSettingsError."""
    return configured_rewriter(settings) or (DemoGrammar() if demo else None)


def configured_styles(settings: EnhanceSettings) -> Styles:
    """The style cards of the settings. Raises EnhanceSettingsError."""
    try:
        return Styles.read(settings.inspiration_styles)
    except UnusableFileError as error:
        raise EnhanceSettingsError(str(error)) from error


def _local(settings: EnhanceSettings, path: Path) -> LocalModel:
    if settings.enhance_url is not None:
        raise EnhanceSettingsError("The settings enhance_url and enhance_folder exclude each other: set one of them.")
    if settings.enhance_sees_image:
        raise EnhanceSettingsError(
            "A model of the setting enhance_folder sees no images: set enhance_sees_image = false."
        )
    if path.is_dir():
        lacking = [name for name in ("config.json", "tokenizer_config.json") if not (path / name).is_file()]
        if not any(path.glob("*.safetensors")):
            lacking.append("*.safetensors")
        if lacking:
            raise EnhanceSettingsError(f"{path} (setting enhance_folder) has no {lacking[0]}: it is no instruct model.")
    elif path.suffix != ".gguf" or not path.is_file():
        raise EnhanceSettingsError(f"{path} (setting enhance_folder) is neither a folder nor a GGUF file.")
    return LocalModel(path, settings.enhance_timeout, settings.enhance_idle)


def _prompts(settings: EnhanceSettings) -> SystemPrompts:
    try:
        return SystemPrompts.read(settings.enhance_prompts_dir)
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
