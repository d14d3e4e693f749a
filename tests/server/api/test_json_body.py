"""A body is a JSON object that can be stored and sent on, or a sentence."""

import json

import pytest

from server.api.json_body import MAX_DEPTH, parse_object
from server.core.errors import InvalidParamsError


def nested(depth: int, kind: str) -> bytes:
    return (
        b'{"a": '
        + (
            b"[" * (depth - 1) + b"]" * (depth - 1)
            if kind == "array"
            else b'{"a": ' * (depth - 2) + b"{}" + b"}" * (depth - 2)
        )
        + b"}"
    )


@pytest.mark.parametrize("kind", ["array", "object"])
def test_the_depth_has_a_limit(kind: str) -> None:
    assert parse_object(nested(MAX_DEPTH, kind))
    for depth in (MAX_DEPTH + 1, 1000, 100_000):
        with pytest.raises(InvalidParamsError, match=r"^The JSON of the body must not be nested deeper than 64 levels"):
            parse_object(nested(depth, kind))


def test_brackets_in_strings_are_no_depth() -> None:
    body = {"prompt": "[" * 1000 + '\\"{' * 1000, "list": [[], {}] * 200}

    assert parse_object(json.dumps(body).encode()) == body


def test_nul_is_replaced_wherever_it_is() -> None:
    body = {"prompt": "a\0b", "na\0me": [{"x": "\0"}], "text": "\\u0000"}

    assert parse_object(json.dumps(body).encode()) == {
        "prompt": "a\ufffdb",
        "na\ufffdme": [{"x": "\ufffd"}],
        "text": "\\u0000",
    }


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b"3", b"null", b'{"a": NaN}', b'{"a": 1e999}', b'{"a": "\\ud800"}', b"\xff"]
)
def test_anything_else_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidParamsError, match=r"^The body must be a JSON object"):
        parse_object(raw)
