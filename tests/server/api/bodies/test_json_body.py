"""A body is a JSON object that can be stored and sent on, or a sentence."""

import asyncio
import json

import pytest

from server.api.bodies.json_body import (
    MAX_DEPTH,
    MAX_LARGE,
    MAX_LARGE_OF_TENANT,
    MAX_NAMES,
    MAX_VALUES,
    LargeBodies,
    RequestBody,
    parse_object,
)
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
    for depth in (MAX_DEPTH + 1, 1000, MAX_VALUES - 1):
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


def test_names_and_values_have_a_limit() -> None:
    names = {str(number): number for number in range(MAX_NAMES)}
    assert parse_object(json.dumps(names).encode()) == names
    with pytest.raises(InvalidParamsError, match=r"^The JSON of the body must have at most 256 names\.$"):
        parse_object(json.dumps({**names, "one": 1}).encode())

    for many in ([0] * (MAX_VALUES + 1), [[]] * MAX_VALUES, [{}] * MAX_VALUES, {str(n): n for n in range(MAX_VALUES)}):
        with pytest.raises(InvalidParamsError, match=r"^The JSON of the body must have at most 5000 values\.$"):
            parse_object(json.dumps({"a": many, "b": 1}).encode())


@pytest.mark.parametrize("content", ['"",', "\\n", '"\\"",'])
def test_quotes_and_escaped_characters_have_a_limit(content: str) -> None:
    inside = '{"a": "%s"}' if content[0] == "\\" else '{"a": [%s0]}'
    assert parse_object((inside % (content * (20_000 if content[0] == "\\" else MAX_VALUES - 3))).encode())
    with pytest.raises(InvalidParamsError, match=r"at most (5000 values|100000 escaped characters)\.$"):
        parse_object((inside % (content * 110_000)).encode())


@pytest.mark.parametrize(
    "raw",
    [b'"' + b'\\"' * 90_000 + b"," * 800_000, b'"' + b"\\," * 99_999, b'"' * 100_000 + b"," * 800_000, b"\\" * 100_000],
)
def test_strings_without_an_end_take_no_longer(raw: bytes) -> None:
    # it would take minutes, if it went from each quote to the end
    with pytest.raises(InvalidParamsError):
        parse_object(raw)


@pytest.mark.parametrize("number", ["9" * 500, "-" + "9" * 499, "0." + "1" * 498])
def test_numbers_have_a_limit(number: str) -> None:
    assert parse_object(f'{{"a": [{number}]}}'.encode())
    with pytest.raises(
        InvalidParamsError, match=r"^The numbers in the JSON of the body must have at most 500 digits\.$"
    ):
        parse_object(f'{{"a": [{number}1]}}'.encode())


def test_what_looks_like_values_in_strings_is_not_counted() -> None:
    body = {"prompt": ",[{" * MAX_VALUES, "quoted": '",[{\\' * MAX_VALUES}

    assert parse_object(json.dumps(body).encode()) == body


async def admitted(bodies: LargeBodies, tenant: str, count: int) -> tuple[list[RequestBody], asyncio.Task[None]]:
    """Let a tenant hold so many large bodies, and ask for one more."""
    held = [RequestBody() for _ in range(count)]
    async with asyncio.timeout(5):
        for body in held:
            await bodies.admit(tenant, body)
    one_more = asyncio.create_task(bodies.admit(tenant, RequestBody()))
    await asyncio.sleep(0)
    return held, one_more


async def test_one_tenant_holds_few_large_bodies_and_hinders_no_other() -> None:
    bodies = LargeBodies()
    held, waits = await admitted(bodies, "a", MAX_LARGE_OF_TENANT)
    assert not waits.done()
    other = RequestBody()
    await asyncio.wait_for(bodies.admit("b", other), 5)
    assert other.is_large

    held.pop().close()
    await asyncio.wait_for(waits, 5)


async def test_all_together_hold_few_large_bodies_and_each_leaves_half_to_others() -> None:
    bodies = LargeBodies()
    shares = (8, 8, 8, 4, 2, 1, 1)
    assert sum(shares) == MAX_LARGE
    for number, share in enumerate(shares):
        held, waits = await admitted(bodies, str(number), share)
        assert not waits.done()
        waits.cancel()
    last = RequestBody()
    waits = asyncio.create_task(bodies.admit("last", last))
    await asyncio.sleep(0)
    assert not waits.done()

    held.pop().close()
    await asyncio.wait_for(waits, 5)


async def test_a_request_that_ends_while_it_waits_holds_nothing() -> None:
    bodies = LargeBodies()
    held, waits = await admitted(bodies, "a", MAX_LARGE_OF_TENANT)
    waits.cancel()
    await asyncio.wait([waits])
    for body in held:
        body.close()
        body.close()

    _, one_more = await admitted(bodies, "a", MAX_LARGE_OF_TENANT)
    assert not one_more.done()
    one_more.cancel()
