"""Changes as factors, which are kept beside matrices that stay quantized."""

import pytest
import torch

from pipelines.loading.lora.change import Addition, Change, LowRank


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


CHANGES: dict[str, tuple[Change, int]] = {
    "factors": (LowRank("key", draw(3, 8), draw(5, 3), 1.5), 3),
    "a wide matrix": (Addition("key", draw(5, 8), 1.5), 5),
    "a high matrix": (Addition("key", draw(8, 5)), 5),
}


@pytest.mark.parametrize("case", CHANGES)
def test_factors_have_the_smallest_rank_and_the_product_that_is_added(case: str) -> None:
    change, rank = CHANGES[case]
    down, up = change.factors(-0.7)
    added = change.added_to(torch.zeros(len(up), down.shape[1]), -0.7)

    assert change.rank == len(down) == up.shape[1] == rank
    torch.testing.assert_close(up @ down, added)
    assert added.any()
