"""What `paddock generate` makes of its options."""

import pytest

from server.cli.generate import parse_lora
from server.cli.options import CommandError


@pytest.mark.parametrize(
    ("option", "lora"),
    [
        ("slow camera", {"name": "slow camera"}),
        ("slow camera:0.8", {"name": "slow camera", "strength": 0.8}),
        ("v1.2:-1", {"name": "v1.2", "strength": -1.0}),
    ],
)
def test_a_lora_may_have_a_strength(option: str, lora: dict[str, object]) -> None:
    assert parse_lora(option) == lora


@pytest.mark.parametrize("option", ["slow:", "slow:much", "slow:0,8"])
def test_a_strength_that_is_no_number_is_refused(option: str) -> None:
    with pytest.raises(CommandError, match=f"--lora {option}: after the colon there must be a strength"):
        parse_lora(option)
