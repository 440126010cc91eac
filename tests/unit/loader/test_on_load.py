from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from transformers import LlamaForCausalLM

from sagellm_engine.loader import open_checkpoint
from sagellm_engine.loader.on_load import quantize_on_load, weight_bytes
from sagellm_engine.weights import GroupQuantized
from sagellm_schemas import SettingsError

Make = Callable[..., Path]


@pytest.mark.parametrize(("quantization", "bits"), [("int8", 8), ("int4", 4)])
def test_matrices_are_rounded_and_the_tables_keep_8_bits(
    make_folder: Make, llama: LlamaForCausalLM, quantization: str, bits: int
) -> None:
    checkpoint = open_checkpoint(str(make_folder()))
    found = dict(quantize_on_load(checkpoint, quantization))
    assert found.keys() == llama.state_dict().keys()
    for name, original in llama.state_dict().items():
        weight = found[name]
        if original.dim() == 1:
            assert torch.equal(weight, original), name
            continue
        assert isinstance(weight, GroupQuantized), name
        assert weight.bits == (bits if "_proj" in name else 8), name
        error = (weight.dequantize() - original).square().mean().sqrt() / original.std()
        assert float(error) < (0.1 if weight.bits == 4 else 0.01), name


def test_without_a_wish_weights_come_as_they_are(make_folder: Make, llama: LlamaForCausalLM) -> None:
    for name, weight in quantize_on_load(open_checkpoint(str(make_folder())), None):
        assert torch.equal(weight, llama.state_dict()[name]), name


def test_rows_that_are_no_whole_number_of_groups_stay_as_they_are(
    make_folder: Make, make_llama: Callable[..., LlamaForCausalLM]
) -> None:
    model = make_llama(intermediate_size=72)
    found = dict(quantize_on_load(open_checkpoint(str(make_folder(model))), "int4"))
    down = "model.layers.0.mlp.down_proj.weight"
    assert torch.equal(found[down], model.state_dict()[down])
    assert isinstance(found["model.layers.0.mlp.up_proj.weight"], GroupQuantized)


def test_an_unquantized_gguf_file_can_be_rounded(make_gguf: Make) -> None:
    found = dict(quantize_on_load(open_checkpoint(str(make_gguf(kind=Kind.F16))), "int8"))
    assert isinstance(found["model.layers.0.mlp.up_proj.weight"], GroupQuantized)


HIDDEN, INNER, VOCABULARY, LAYERS = 64, 96, 320, 2
TABLES = 2 * VOCABULARY * HIDDEN
PROJECTIONS = LAYERS * (HIDDEN * (64 + 2 * 32 + 64) + 3 * HIDDEN * INNER)
NORMS = (2 * LAYERS + 1) * HIDDEN


@pytest.mark.parametrize(
    ("quantization", "table_bits", "projection_bits"), [(None, 16, 16), ("int8", 9, 9), ("int4", 9, 5)]
)
def test_the_memory_that_rounded_weights_will_take_is_known_before(
    make_folder: Make, quantization: str | None, table_bits: int, projection_bits: int
) -> None:
    checkpoint = open_checkpoint(str(make_folder()))
    bits = TABLES * table_bits + PROJECTIONS * projection_bits + NORMS * 16
    assert weight_bytes(checkpoint, quantization, 2) == bits // 8


@pytest.mark.parametrize(("kind", "bits"), [(Kind.F16, 16), (Kind.Q4_1, 5), (Kind.Q8_0, 9), (Kind.Q5_1, 9)])
def test_the_memory_that_a_gguf_file_will_take_is_known_before(make_gguf: Make, kind: Kind, bits: int) -> None:
    expected = (TABLES + PROJECTIONS) * bits + NORMS * 16
    assert weight_bytes(open_checkpoint(str(make_gguf(kind=kind))), None, 2) == expected // 8


def test_what_is_quantized_already_is_not_rounded_again(make_gguf: Make) -> None:
    checkpoint = open_checkpoint(str(make_gguf(kind=Kind.Q4_1)))
    with pytest.raises(SettingsError, match=r"tiny is quantized already \(Q4_1\) and runs as it is"):
        quantize_on_load(checkpoint, "int4")
