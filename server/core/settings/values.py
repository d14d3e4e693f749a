"""Values of settings that take more than a pattern to check: folders, and the origins of browsers."""

import os
import re
import sys
from ipaddress import ip_address
from pathlib import Path

from pydantic_core import PydanticCustomError

from pipelines.core.errors import NoHomeError
from pipelines.core.home import expanded

# desktop apps have schemes of their own, and some of these no host
_ORIGIN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>\[[0-9a-f:.]+\]|[a-z0-9_-]+(\.[a-z0-9_-]+)*)?(:(?P<port>[1-9][0-9]{0,4}))?"
)
_DEFAULT_PORTS = {"http": "80", "https": "443"}


def as_folder(path: Path, advice: str) -> Path:
    """Return the whole path of a folder. `advice` is for a user without a home folder."""
    try:
        whole = expanded(path).absolute()
        os.fsencode(str(whole).encode().decode())
    except NoHomeError as error:
        raise PydanticCustomError(
            "no_home",
            "There is no home folder for {path}: set HOME, or {advice}.",
            {"path": str(path), "advice": advice},
        ) from error
    except FileNotFoundError as error:
        raise PydanticCustomError(
            "no_cwd", "The current folder has been deleted: write the whole path of {path}.", {"path": str(path)}
        ) from error
    except UnicodeEncodeError as error:
        raise PydanticCustomError(
            "encoding",
            "{path} is not text in UTF-8 that the system's encoding, {encoding}, has too: choose a folder with another "
            "name, or set PYTHONUTF8=1.",
            {"path": ascii(str(path)), "encoding": sys.getfilesystemencoding()},
        ) from error
    return whole


def as_origin(written: str) -> str:
    """Return an origin as a browser sends it, in lower case and without the scheme's default port."""
    found = _ORIGIN.fullmatch(written.lower())
    if found is not None and _is_sent(found["scheme"], found["host"] or "", int(found["port"] or 0)):
        default = _DEFAULT_PORTS.get(found["scheme"])
        return found[0].removesuffix(f":{default}") if found["port"] == default else found[0]
    raise PydanticCustomError(
        "origin",
        "{origin} is not an origin that a browser sends. Write scheme://host or scheme://host:port, without a path, "
        "user, query or wildcard, such as https://app.example or tauri://localhost.",
        {"origin": written},
    )


def _is_sent(scheme: str, host: str, port: int) -> bool:
    if port > 65535 or not host:
        return port == 0 and scheme not in _DEFAULT_PORTS
    is_number = re.fullmatch(r"[0-9]+|0x[0-9a-f]*", host.rpartition(".")[2]) is not None
    if not host.startswith("[") and not (is_number and scheme in _DEFAULT_PORTS):
        return True
    # a name that ends in a number is an address, and browsers send only the usual spelling
    try:
        return str(ip_address(host.strip("[]"))) == host.strip("[]")
    except ValueError:
        return False
