from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from sagellm_engine.config import LinearScaling
from sagellm_engine.loader import open_checkpoint
from sagellm_engine.loader.gguf_dequantize import dequantize
from sagellm_engine.loader.gguf_quantized import kept_quantized, read_quantized
from sagellm_engine.loader.gguf_rope import llama3_scaling
from sagellm_engine.weights import GroupQuantized
from sagellm_schemas import ModelLoadError

Make = Callable[..., Path]
Change = Callable[[SimpleNamespace], None]


def test_weights_come_back_under_their_own_names_and_in_their_own_order(
    make_gguf: Make, llama: LlamaForCausalLM
) -> None:
    checkpoint = open_checkpoint(str(make_gguf()))
    expected = llama.state_dict()
    found = dict(checkpoint.tensors())
    assert found.keys() == expected.keys()
    assert checkpoint.shapes() == {name: tuple(tensor.shape) for name, tensor in expected.items()}
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (Kind.F16, 1e-4),
        (Kind.BF16, 1e-3),
        (Kind.Q8_0, 1e-3),
        (Kind.Q4_1, 1e-2),
        (Kind.Q4_0, 1.5e-2),
        (Kind.Q5_1, 5e-3),
    ],
)
def test_quantized_weights_are_near_the_originals(
    make_gguf: Make, llama: LlamaForCausalLM, kind: Kind, error: float
) -> None:
    found = dict(open_checkpoint(str(make_gguf(kind=kind))).tensors())
    for name, tensor in llama.state_dict().items():
        weight = found[name]
        weight = weight.dequantize() if isinstance(weight, GroupQuantized) else weight.float()
        torch.testing.assert_close(weight, tensor, rtol=0, atol=error)


@pytest.mark.parametrize(
    ("kind", "bits", "group_size"),
    [
        (Kind.Q4_0, 4, 32),
        (Kind.Q4_1, 4, 32),
        (Kind.Q4_K, 4, 32),
        (Kind.Q5_0, 8, 32),
        (Kind.Q5_1, 8, 32),
        (Kind.Q5_K, 8, 32),
        (Kind.Q6_K, 8, 16),
        (Kind.Q8_0, 8, 32),
    ],
)
def test_blocks_stay_as_they_are_and_mean_exactly_what_the_gguf_package_says(
    kind: Kind, bits: int, group_size: int
) -> None:
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    raw = np.random.default_rng(1).integers(0, 256, (24, 512 // block * block_bytes), dtype=np.uint8)
    with np.errstate(all="ignore"):
        expected = torch.from_numpy(gguf.quants.dequantize(raw, kind))
    finite = expected.isfinite()  # random bytes make scales that are not
    quantized = read_quantized(raw, kind)
    assert (quantized.shape, quantized.bits, quantized.group_size) == ((24, 512), bits, group_size)
    assert int(quantized.values.max()) < 2**bits
    assert finite.float().mean() > 0.5
    assert torch.equal(quantized.dequantize()[finite], expected[finite])
    assert not quantized.dequantize()[~finite].isfinite().any()


@pytest.mark.parametrize("kind", [Kind.Q4_1, Kind.Q8_0, Kind.Q4_0])
def test_matrices_of_a_file_are_not_inflated(make_gguf: Make, kind: Kind) -> None:
    for name, weight in open_checkpoint(str(make_gguf(kind=kind))).tensors():
        assert isinstance(weight, GroupQuantized) == (not name.endswith("norm.weight")), name


@pytest.mark.parametrize("kind", [Kind.TQ1_0, Kind.Q3_K])
def test_rarer_kinds_come_as_numbers(kind: Kind) -> None:
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    raw = np.random.default_rng(1).integers(0, 0x3B, (6, 512 // block * block_bytes), dtype=np.uint8)
    assert not kept_quantized(kind)
    assert torch.equal(dequantize(raw, kind), torch.from_numpy(gguf.quants.dequantize(raw, kind)))


@pytest.mark.parametrize("kind", [Kind.Q4_1, Kind.Q8_0])
def test_quantized_query_and_key_rows_rotate_as_the_originals(
    make_gguf: Make, llama: LlamaForCausalLM, kind: Kind
) -> None:
    found = dict(open_checkpoint(str(make_gguf(kind=kind))).tensors())
    for projection in ("q_proj", "k_proj", "v_proj"):
        name = f"model.layers.1.self_attn.{projection}.weight"
        original = llama.state_dict()[name].numpy()
        rounded = gguf.quants.dequantize(gguf.quants.quantize(original, kind), kind)
        assert torch.equal(found[name].dequantize(), torch.from_numpy(rounded)), name


def test_unquantized_weights_keep_their_type(make_gguf: Make) -> None:
    checkpoint = open_checkpoint(str(make_gguf(kind=Kind.F16)))
    assert checkpoint.config.dtype == "float16"
    assert dict(checkpoint.tensors())["model.layers.0.self_attn.q_proj.weight"].dtype == torch.float16


def test_tied_embeddings_and_biases_are_seen_from_the_tensors(
    make_gguf: Make, make_llama: Callable[..., LlamaForCausalLM]
) -> None:
    model = make_llama(tie_word_embeddings=True, attention_bias=True, mlp_bias=True)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    checkpoint = open_checkpoint(str(make_gguf(model)))
    config = checkpoint.config
    assert (config.tie_word_embeddings, config.qkv_bias, config.attention_out_bias, config.mlp_bias) == (True,) * 4
    found = dict(checkpoint.tensors())
    assert "lm_head.weight" not in found
    for name, tensor in found.items():
        assert torch.equal(tensor, model.state_dict()[name]), name


def test_config_tokenizer_and_chat_tokens_come_from_the_metadata(make_gguf: Make, tokenizer: Tokenizer) -> None:
    checkpoint = open_checkpoint(str(make_gguf()))
    config = checkpoint.config
    assert checkpoint.name == "tiny"
    assert (config.num_layers, config.num_heads, config.num_kv_heads, config.head_dim) == (2, 4, 2, 16)
    assert (config.vocab_size, config.ropes[0].theta, config.max_position_embeddings) == (320, 10000.0, 128)
    assert (checkpoint.bos_token, checkpoint.eos_token) == ("<|im_start|>", "<|endoftext|>")
    assert "im_start" in checkpoint.chat_template
    text = "<|im_start|>the cat sat,  then 😀<|im_end|>"
    assert Tokenizer.from_buffer(checkpoint.tokenizer_json).encode(text).ids == tokenizer.encode(text).ids


def test_the_token_that_ends_a_turn_stops_an_answer_though_the_file_names_only_the_end_of_text(
    make_gguf: Make,
) -> None:
    assert open_checkpoint(str(make_gguf())).eos_token_ids == [0, 2]


def test_llama_3_rope_scaling_is_recovered_from_its_divisors(make_llama: Callable[..., LlamaForCausalLM]) -> None:
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    config = make_llama(rope_parameters=scaling | {"rope_theta": 5e5}, head_dim=128).config
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 5e5 ** -(torch.arange(0, 128, 2) / 128)
    assert llama3_scaling(plain / scaled, 5e5, "a.gguf") == pytest.approx(scaling)
    assert llama3_scaling(torch.ones(64), 5e5, "a.gguf") is None
    with pytest.raises(ModelLoadError, match="not Llama 3's"):
        llama3_scaling(torch.linspace(1, 9, 64), 5e5, "a.gguf")


def test_rope_divisors_in_the_file_become_the_configs_scaling(make_gguf: Make) -> None:
    def change(content: SimpleNamespace) -> None:
        content.tensors["rope_freqs.weight"] = np.ones(8, np.float32)
        content.metadata |= {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}

    assert open_checkpoint(str(make_gguf(change=change))).config.ropes[0].scaling == LinearScaling(factor=4.0)


def _metadata(**values: object) -> Change:
    def change(content: SimpleNamespace) -> None:
        for key, value in values.items():
            name = key.replace("__", ".")
            if value is None:
                del content.metadata[name]
            else:
                content.metadata[name] = value

    return change


def _without(name: str) -> Change:
    return lambda content: content.tensors.pop(name)


def _mixture_of_architecture(content: SimpleNamespace) -> None:
    content.architecture = "mamba"


def _narrow_projection(content: SimpleNamespace) -> None:
    content.tensors["blk.1.ffn_up.weight"] = np.zeros((95, 64), np.float32)


def _yarn_factors(content: SimpleNamespace) -> None:
    content.tensors["rope_freqs.weight"] = np.linspace(1, 9, 8, dtype=np.float32)


def _unknown_quantization(content: SimpleNamespace) -> None:
    content.tensors["blk.0.ffn_up.weight"] = np.zeros((96, 64), np.uint8)
    content.kinds["blk.0.ffn_up.weight"] = Kind.I8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_mixture_of_architecture, "architecture 'mamba', which is not supported; supported are llama"),
        (_metadata(llama__block_count=None), "no metadata llama.block_count"),
        (_metadata(llama__block_count=3), "no tensor model.layers.2.* and 8 more"),
        (_metadata(llama__expert_count=8), "no num_experts_per_tok"),
        (_metadata(llama__rope__dimension_count=8), "rotates 8 of 16"),
        (_metadata(split__count=2), "llama-gguf-split --merge"),
        (_without("token_embd.weight"), "no tensor token_embd.weight"),
        (_without("blk.1.attn_q.weight"), "no tensor model.layers.1.self_attn.q_proj.weight"),
        (_narrow_projection, r"has shape \(95, 64\), but its config needs \(96, 64\)"),
        (_yarn_factors, "not Llama 3's"),
        (_unknown_quantization, "quantization I8, which is not supported"),
        (_metadata(tokenizer__ggml__tokens=None), "no metadata tokenizer.ggml.tokens"),
        (_metadata(tokenizer__ggml__bos_token_id=999), "bos_token_id 999, but only 282 tokens"),
        (_metadata(tokenizer__ggml__tokens=["a"] * 321, tokenizer__ggml__token_type=None), "embeddings for 320"),
        (_metadata(tokenizer__ggml__model="bert"), "tokenizer of kind 'bert'"),
        (_metadata(tokenizer__ggml__pre="martian"), "splits text as 'martian'"),
    ],
)
def test_a_file_we_cannot_run_is_refused_when_it_is_opened(make_gguf: Make, change: Change, message: str) -> None:
    with pytest.raises(ModelLoadError, match=message):
        open_checkpoint(str(make_gguf(change=change)))
