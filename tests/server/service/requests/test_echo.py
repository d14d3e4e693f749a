"""What rows keep of a request has a bound, and unknown parameters are reported."""

import json
from typing import Any

import pytest

from pipelines.models.catalogue import DEFAULT_MODEL, read_catalogue
from server.service.requests.echo import (
    MAX_ECHO_BYTES,
    MAX_TARGET_CHARS,
    TARGETS,
    UNSUPPORTED,
    echo,
    text,
    warnings_about,
)

ENTRY = read_catalogue()[DEFAULT_MODEL]


def test_the_echo_is_all_that_was_carried_within_bounds() -> None:
    body = {
        "model": "m",
        "num_generations": 2,
        "target_repo": "r",
        "prompt": "x" * 500,
        "height": 64,
        "nothing": None,
        "fancy": {"a": [1]},
        "huge": "y" * MAX_ECHO_BYTES,
    }

    assert echo(ENTRY, body, 100) == {"prompt": "x" * 100, "height": 64, "fancy": {"a": [1]}}


@pytest.mark.parametrize(
    "name", ["aspect_ratio", "height", "seed", "multi_prompt", "loras", "fancy", "x" * 10**6, *TARGETS]
)
@pytest.mark.parametrize("value", ["y" * 10**6, ["z" * 1000] * 1000, {"a" * 10**6: 1}, "湖" * 10**6])
def test_no_field_makes_a_row_larger_than_its_bound(name: str, value: Any) -> None:
    body = {"prompt": "an ox", name: value, "width": 64}

    kept = echo(ENTRY, body, 10_000)
    targets = [text(body, target) for target in TARGETS]
    assert kept["width"] == 64
    assert len(json.dumps([kept, targets])) < MAX_ECHO_BYTES + 100
    assert sum(len(target or "") for target in targets) <= MAX_TARGET_CHARS


def test_many_small_fields_stay_within_the_bound_and_known_ones_come_first() -> None:
    body = {**{f"name{number}": "value" for number in range(10_000)}, "prompt": "an ox", "height": 64}

    kept = echo(ENTRY, body, 100)
    assert (kept["prompt"], kept["height"]) == ("an ox", 64)
    assert len(json.dumps(kept)) < MAX_ECHO_BYTES + 100
    assert len(warnings_about(ENTRY, body)) == 7


@pytest.mark.parametrize(
    "name",
    [
        "progress",
        "warnings",
        "answered_by",
        "enhanced_prompt",
        "inspiration_style",
        "has_audio",
        "favourite",
        "tags",
        "execution",
    ],
)
def test_no_parameter_shadows_a_name_of_this_server(name: str) -> None:
    assert name not in echo(ENTRY, {"prompt": "an ox", name: "mine"}, 100)


def test_unknown_names_are_reported() -> None:
    known = {**dict.fromkeys(ENTRY.api.by_name, 1), **dict.fromkeys(UNSUPPORTED, 1), **dict.fromkeys(TARGETS, "x")}
    assert warnings_about(ENTRY, {"model": "m", "num_generations": 2, "resolution": "480p", **known}) == ()
    assert warnings_about(ENTRY, {"heigth": 64, "absent": None, "empty": []}) == (
        f"'heigth' is not a parameter of {ENTRY.id}: it was ignored.",
    )
    strange = warnings_about(ENTRY, {"a\r\nSet-Cookie: x": 1, "高": 1, "x" * 1000: 1})
    assert all(sentence.isascii() and sentence.isprintable() and len(sentence) < 300 for sentence in strange)
