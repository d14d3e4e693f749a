import itertools

import pytest

from pipelines.planning.tiles import spans


@pytest.mark.parametrize(("largest", "overlap"), [(32, 8), (64, 8), (16, 4), (9, 8)])
def test_tiles_cover_a_side_evenly(largest: int, overlap: int) -> None:
    for length in range(9, 200):
        tiles = spans(length, largest, overlap)

        assert tiles[0][0] == 0
        assert tiles[-1][1] == length
        sizes = {end - begin for begin, end in tiles}
        assert len(sizes) == 1
        assert sizes.pop() <= largest
        shared = [before[1] - after[0] for before, after in itertools.pairwise(tiles)]
        assert all(count >= overlap for count in shared)
        # one tile fewer would not have covered it
        assert len(tiles) == 1 or (len(tiles) - 1) * (largest - overlap) + overlap < length
