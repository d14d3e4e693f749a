"""The benchmark of accuracy: what it measures on a small transformer."""

import torch

from benchmarks.quality.accuracy import as_loaded, difference, forward, of_random_weights, random_transformer
from pipelines.core.precision import Accuracy


def test_the_fp32_residual_stream_is_several_times_closer() -> None:
    found = of_random_weights(256, 10)

    assert 0 < 3 * found[Accuracy.HIGH] < found[Accuracy.STANDARD] < 0.05


def test_the_weights_are_the_same_in_both_dtypes() -> None:
    exact = random_transformer(128, 1)
    loaded = as_loaded(exact)

    for name, parameter in loaded.named_parameters():
        assert torch.equal(parameter.float(), exact.get_parameter(name))
    output = forward(exact, torch.float32)
    assert difference(output, output) == 0
    assert difference(2 * output, output) == 1
