import pytest
import torch

from sagellm_engine.weights.rounding import round_to


def _weights(seed: int, shape: tuple[int, int] = (70, 96)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator) * torch.rand(shape[0], 1, generator=generator)


def _error(found: torch.Tensor, weight: torch.Tensor) -> float:
    return float((found - weight).square().mean().sqrt())


def _between_smallest_and_largest(weight: torch.Tensor) -> torch.Tensor:
    """The plain way to 16 steps."""
    groups = weight.reshape(len(weight), -1, 32)
    low = groups.amin(-1, keepdim=True)
    step = (groups.amax(-1, keepdim=True) - low) / 15
    return (((groups - low) / step).round() * step + low).reshape(weight.shape)


@pytest.mark.parametrize("seed", range(8))
def test_four_bits_are_nearer_to_the_weights_than_the_plain_way_between_smallest_and_largest(seed: int) -> None:
    weight = _weights(seed)
    rounded = round_to(weight, 4)
    assert (rounded.shape, rounded.bits, rounded.group_size) == ((70, 96), 4, 32)
    assert int(rounded.values.max()) <= 15
    assert _error(rounded.dequantize(), weight) < 0.95 * _error(_between_smallest_and_largest(weight), weight)


@pytest.mark.parametrize("seed", range(4))
def test_eight_bits_are_off_by_half_a_step_of_the_largest_weight_at_most(seed: int) -> None:
    weight = _weights(seed)
    rounded = round_to(weight, 8)
    assert rounded.bits == 8
    half_steps = weight.reshape(70, 3, 32).abs().amax(-1) / 254
    errors = (rounded.dequantize() - weight).reshape(70, 3, 32).abs().amax(-1)
    assert bool((errors <= half_steps * 1.0001).all())


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("value", [0.0, 0.5, -3.0, 1e-30])
def test_groups_that_are_all_one_value_keep_it(bits: int, value: float) -> None:
    weight = torch.full((3, 64), value)
    torch.testing.assert_close(round_to(weight, bits).dequantize(), weight)


def test_groups_of_two_values_keep_both() -> None:
    weight = torch.tensor([-1.0, 5.0]).repeat(2, 32)
    torch.testing.assert_close(round_to(weight, 4).dequantize(), weight)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_of_16_bits_are_rounded_as_the_numbers_they_are(dtype: torch.dtype) -> None:
    weight = _weights(1).to(dtype)
    assert torch.equal(round_to(weight, 4).dequantize(), round_to(weight.float(), 4).dequantize())


def test_one_outlier_costs_only_its_own_group() -> None:
    weight = _weights(2)
    spoiled = weight.clone()
    spoiled[3, 40] = 50.0
    difference = (round_to(spoiled, 4).dequantize() - round_to(weight, 4).dequantize()).abs()
    assert float(difference[3, 32:64].max()) > 0
    difference[3, 32:64] = 0
    assert float(difference.max()) == 0
