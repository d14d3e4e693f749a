"""Configuration files: TOML, with a table for each section of the settings."""

from collections.abc import Mapping
from pathlib import Path
from tomllib import TOMLDecodeError
from tomllib import loads as parse_toml
from typing import Any

from pydantic import BaseModel

Tables = Mapping[str, type[BaseModel]]


class ConfigFileError(Exception):
    """The configuration file is missing, is not TOML, or has an unknown table or key."""


def read_tables(path: Path, tables: Tables) -> tuple[dict[str, Any], list[str]]:
    """Return the settings of a configuration file by name, and warnings about keys outside their table.

    `tables` are the tables that it may have, and the section of settings of each. Raises ConfigFileError.
    """
    if not path.is_file():
        raise ConfigFileError(f"The configuration file {path} does not exist.")
    try:
        content = parse_toml(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, TOMLDecodeError) as error:
        raise ConfigFileError(f"The configuration file {path} cannot be read: {error}") from error
    table_of = {name: table for table, section in tables.items() for name in section.model_fields}
    values: dict[str, Any] = {}
    for table in tables:
        values |= _table(path, table, content.pop(table, {}), tables, table_of)
    warnings = []
    # v0.1.0 had no tables: its flat keys are read for one more version
    for name, value in content.items():
        if name not in table_of:
            kind = "table" if isinstance(value, dict) else "setting"
            raise ConfigFileError(f"The configuration file {path} has a {kind} {name}, which does not exist.")
        if name in values:
            raise ConfigFileError(
                f"The configuration file {path} sets {name} twice: in the table [{table_of[name]}] and outside it."
            )
        values[name] = value
        warnings.append(
            f"{path}: move {name} into the table [{table_of[name]}]. The next version will not read it elsewhere."
        )
    return values, warnings


def _table(path: Path, table: str, content: Any, tables: Tables, table_of: Mapping[str, str]) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ConfigFileError(f"The configuration file {path} has a setting {table}, which must be a table [{table}].")
    for name in content:
        if name in tables[table].model_fields:
            continue
        hint = f" It belongs in the table [{table_of[name]}]." if name in table_of else ""
        raise ConfigFileError(
            f"The configuration file {path} has a setting {name} in the table [{table}], which does not exist.{hint}"
        )
    return content
