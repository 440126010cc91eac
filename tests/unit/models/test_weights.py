"""A checkpoint's tensors become the products that a decoder is made of."""

import msgspec
import torch

from sagellm_engine.config import read_hf_config
from sagellm_engine.loader.expected_tensors import expected_shapes
from sagellm_engine.models.weights import Weights
from sagellm_engine.weights import GroupQuantized, Weight

PHI3 = read_hf_config(
    {
        "architectures": ["Phi3ForCausalLM"],
        "vocab_size": 10,
        "hidden_size": 32,
        "intermediate_size": 6,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 64,
    }
)


class Keeping:
    """Packs nothing: a product is its parts."""

    def product(self, parts: list[Weight], bias: torch.Tensor | None) -> list[Weight]:
        return parts

    def embedding(self, weight: Weight) -> Weight:
        return weight


def _random(shape: tuple[int, ...]) -> Weight:
    if len(shape) == 1:
        return torch.rand(shape)
    values = torch.randint(0, 16, shape, dtype=torch.uint8)
    groups = (shape[0], shape[1] // (16 if shape[1] % 16 == 0 else shape[1]))
    return GroupQuantized(values, torch.rand(groups), torch.rand(groups), bits=4, group_size=shape[1] // groups[1])


def test_gates_and_ups_in_one_quantized_tensor_become_two_parts() -> None:
    tensors = {name: _random(shape) for name, shape in expected_shapes(PHI3).items()}
    weights = Weights(PHI3, tensors.items(), Keeping())
    stored = tensors["model.layers.0.mlp.gate_up_proj.weight"]
    parts = weights.product("model.layers.0.mlp.gate_up")
    assert [part.shape for part in parts] == [(6, 32), (6, 32)]
    assert isinstance(stored, GroupQuantized)
    assert torch.equal(torch.cat([part.dequantize() for part in parts]), stored.dequantize())
    assert len(weights.product("model.layers.0.self_attn.qkv")) == 1


def test_a_norm_has_the_offset_of_its_family() -> None:
    tensors = {name: _random(shape) for name, shape in expected_shapes(PHI3).items()}
    offset = msgspec.structs.replace(PHI3, norm_offset=1.0)
    weights = Weights(offset, tensors.items(), Keeping())
    assert torch.equal(weights.norm("model.norm"), tensors["model.norm.weight"] + 1.0)
