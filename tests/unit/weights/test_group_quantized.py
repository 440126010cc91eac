import pytest
import torch

from sagellm_engine.weights import GroupQuantized


def _random(out_features: int, in_features: int, group_size: int, bits: int = 4) -> GroupQuantized:
    generator = torch.Generator().manual_seed(out_features)
    shape = (out_features, in_features // group_size)
    return GroupQuantized(
        values=torch.randint(0, 2**bits, (out_features, in_features), generator=generator, dtype=torch.uint8),
        scales=torch.rand(shape, generator=generator),
        minimums=-torch.rand(shape, generator=generator),
        bits=bits,
        group_size=group_size,
    )


@pytest.mark.parametrize(("group_size", "bits"), [(32, 4), (16, 8), (96, 4), (1, 8)])
def test_a_weight_is_its_value_times_the_scale_plus_the_minimum_of_its_group(group_size: int, bits: int) -> None:
    quantized = _random(5, 96, group_size, bits)
    assert quantized.shape == (5, 96)
    weights = quantized.dequantize()
    assert weights.dtype is torch.float32
    for row, column in ((0, 0), (2, 40), (4, 95)):
        scale, minimum = (t[row, column // group_size] for t in (quantized.scales, quantized.minimums))
        assert weights[row, column] == quantized.values[row, column] * scale + minimum


def test_looking_up_rows_gives_the_rows_of_the_matrix() -> None:
    quantized = _random(7, 64, 32)
    ids = torch.tensor([[6, 0], [3, 3]])
    assert torch.equal(quantized.rows(ids), quantized.dequantize()[ids])
    assert torch.equal(quantized.rows(ids[0]), quantized.dequantize()[ids[0]])


def test_stacked_parts_are_the_stacked_matrices() -> None:
    parts = [_random(3, 64, 32), _random(5, 64, 32)]
    stacked = GroupQuantized.cat(parts)
    assert stacked.shape == (8, 64)
    assert torch.equal(stacked.dequantize(), torch.cat([part.dequantize() for part in parts]))


@pytest.mark.parametrize("other", [_random(3, 64, 16), _random(3, 32, 32), _random(3, 64, 32, bits=8)])
def test_parts_of_different_kinds_are_not_stacked(other: GroupQuantized) -> None:
    with pytest.raises(ValueError, match="different"):
        GroupQuantized.cat([_random(3, 64, 32), other])
