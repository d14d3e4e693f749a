"""Keys up to a whole number of a kernel's tiles, and what they add to attention taken off again.

cuDNN's kernels lose up to an eighth of their speed where the last tile of keys is not full (docs/speed.md), and a
video's tokens fill it only by chance. So the keys are followed by copies of one more, of which each query's weight is
known, with values of 0: without that weight all others grow by the same factor.

The keys' mean, or 0 where that has been taken off, is the one to add: exp being convex, its weight is never more than
the mean of all others', so that hardly anything is taken off however the keys lie.
"""

import torch


def missing(keys: int, tile: int) -> int:
    """How many keys fill the last tile."""
    return -keys % tile


def followed(part: torch.Tensor, by: torch.Tensor, times: int) -> torch.Tensor:
    """A part (batch, heads, tokens, dim) followed by (batch, heads, 1, dim) so often, as projections lay it out."""
    more = by.to(part.dtype).expand(-1, -1, times, -1)
    return torch.cat([part.transpose(1, 2), more.transpose(1, 2)], dim=1).transpose(1, 2)


def regained(scores: torch.Tensor | float, log_sum: torch.Tensor, times: int) -> torch.Tensor:
    """The factor (batch, heads, queries, 1) for outputs to which a key of value 0 was added so often.

    `scores` are the queries' scaled scores of it, `log_sum` the logarithms of the sums of exp of all scores, its own
    among them: (batch, heads, queries, 1) in fp32.
    """
    return 1 / (1 - times * torch.exp(scores - log_sum))
