"""Which requests have their prompt rewritten, and which are refused."""

import pytest

from server.core.errors import InvalidParamsError
from server.service.requests.echo import asks_to_enhance


@pytest.mark.parametrize(
    ("body", "asks"),
    [
        ({}, None),
        ({"enhance_prompt": None, "prompt_extend": []}, None),
        ({"enhance_prompt": True}, True),
        ({"prompt_extend": True}, True),
        ({"enhance_prompt": False}, False),
        ({"prompt_extend": False, "enhance_prompt": None}, False),
    ],
)
def test_a_body_asks_for_it_by_either_name(body: dict[str, object], asks: bool | None) -> None:
    assert asks_to_enhance(body) is asks


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"enhance_prompt": "yes"}, "enhance_prompt must be a boolean"),
        ({"prompt_extend": 1}, "prompt_extend must be a boolean"),
        (
            {"enhance_prompt": True, "prompt_extend": True},
            "enhance_prompt and prompt_extend are the same parameter: give one of them",
        ),
    ],
)
def test_what_it_cannot_be_is_refused(body: dict[str, object], sentence: str) -> None:
    with pytest.raises(InvalidParamsError) as refused:
        asks_to_enhance(body)

    assert str(refused.value) == sentence
