"""Wan's transformer: diffusers' bytes where nothing is asked for, the same bytes in slices, and closer to fp32."""

from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel

from pipelines.core.precision import Accuracy, Precision
from pipelines.demo.folder import demo_folder
from pipelines.layers.wan.transformer import WanTransformer, use_activations
from pipelines.loading.modules import assign_tensors
from pipelines.loading.weight_format import WeightFormat
from tests.pipelines.layers.wan.models import CONFIGS, inputs, random_transformer

EVERY = [(Accuracy.HIGH, 0), (Accuracy.HIGH, 40), (Accuracy.STANDARD, 40)]


def output(model: Any, given: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(**given, return_dict=False)[0]
        return found


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(("accuracy", "slice_tokens"), EVERY)
def test_in_fp32_the_bytes_are_those_of_diffusers(kind: str, batch: int, accuracy: Accuracy, slice_tokens: int) -> None:
    model = random_transformer(kind)
    given = inputs(kind, batch, torch.float32)
    expected = output(model, given)

    use_activations(model, accuracy, slice_tokens)

    assert isinstance(model, WanTransformer)
    assert torch.equal(output(model, given), expected)


def test_standard_accuracy_without_slices_leaves_the_model_as_it_is() -> None:
    model = random_transformer("text")

    use_activations(model, Accuracy.STANDARD)

    assert type(model) is WanTransformer3DModel


def converted(model: Any, precision: Precision) -> Any:
    """A copy of a transformer as it is loaded in bf16, in a precision."""
    tensors = dict(model.state_dict())
    config = {name: value for name, value in model.config.items() if not name.startswith("_")}
    with torch.device("meta"):
        copy: Any = WanTransformer3DModel(**config).eval().requires_grad_(False)
    copy.rope = model.rope
    weight_format = WeightFormat(copy, precision, torch.bfloat16)
    assign_tensors(copy, tensors.items(), weight_format.convert)
    return copy


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize(
    "precision", [Precision.BF16, Precision.FP8, Precision.Q4, Precision.FP8_MATMUL, Precision.INT8_MATMUL]
)
def test_slices_do_not_change_the_bytes(kind: str, precision: Precision) -> None:
    model = random_transformer(kind)
    given = inputs(kind, 2, torch.bfloat16)
    diffusers, standard, high, high_in_slices = (converted(model, precision) for _ in range(4))
    use_activations(standard, Accuracy.STANDARD, 40)
    use_activations(high, Accuracy.HIGH)
    use_activations(high_in_slices, Accuracy.HIGH, 40)

    assert torch.equal(output(standard, given), output(diffusers, given))
    exact = output(high, given)
    assert torch.equal(output(high_in_slices, given), exact)
    assert exact.dtype is torch.float32
    assert not torch.equal(exact.bfloat16(), output(diffusers, given))


def test_it_is_closer_with_trained_weights() -> None:
    model: Any = WanTransformer3DModel.from_pretrained(demo_folder() / "transformer").eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.copy_(parameter.bfloat16())
    generator = torch.Generator().manual_seed(0)
    given = {
        "hidden_states": torch.randn(1, model.config.in_channels, 3, 8, 8, generator=generator).bfloat16(),
        "encoder_hidden_states": torch.randn(1, 512, model.config.text_dim, generator=generator).bfloat16(),
        "timestep": torch.tensor([713.0]),
    }
    expected = output(model, {name: value.float() for name, value in given.items()})
    errors = {}
    for accuracy in Accuracy:
        rounded = converted(model, Precision.BF16)
        use_activations(rounded, accuracy)
        errors[accuracy] = float((output(rounded, given).float() - expected).norm() / expected.norm())

    assert errors[Accuracy.HIGH] < errors[Accuracy.STANDARD] / 1.5


@pytest.mark.parametrize("kind", CONFIGS)
def test_an_fp32_residual_stream_is_closer_to_an_fp32_run(kind: str) -> None:
    model = random_transformer(kind, num_layers=20)
    expected = output(model, inputs(kind, 1, torch.float32))
    errors = {}
    for accuracy in Accuracy:
        rounded = converted(model, Precision.BF16)
        use_activations(rounded, accuracy)
        found = output(rounded, inputs(kind, 1, torch.bfloat16)).float()
        errors[accuracy] = float((found - expected).norm() / expected.norm())

    assert errors[Accuracy.HIGH] < 0.006
    assert errors[Accuracy.HIGH] < errors[Accuracy.STANDARD] / 2
