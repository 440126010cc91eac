"""A tiny random Llama with a tokenizer of its own, as a folder and as GGUF files."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
GGUF_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers": "blk",
}


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the cat and the hat sat on the mat, then that was that"] * 9, trainer)
    return tokenizer


def tiny_llama(**changes: object) -> LlamaForCausalLM:
    torch.manual_seed(7)
    options = {
        "vocab_size": 320,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return LlamaForCausalLM(LlamaConfig(**(options | changes))).float()


@pytest.fixture
def make_llama() -> Callable[..., LlamaForCausalLM]:
    return tiny_llama


@pytest.fixture(scope="session")
def llama() -> LlamaForCausalLM:
    return tiny_llama()


@pytest.fixture
def make_folder(tmp_path: Path, tokenizer: Tokenizer, llama: LlamaForCausalLM) -> Callable[..., Path]:
    """Write a model as transformers does."""

    def make(model: LlamaForCausalLM = llama, shard_size: str = "1GB") -> Path:
        folder = tmp_path / "tiny-llama"
        model.save_pretrained(folder, max_shard_size=shard_size)
        tokenizer.save(str(folder / "tokenizer.json"))
        config = {"bos_token": "<|im_start|>", "eos_token": {"content": "<|im_end|>"}, "chat_template": TEMPLATE}
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        return folder

    return make


@pytest.fixture
def make_gguf(tmp_path: Path, tokenizer: Tokenizer, llama: LlamaForCausalLM) -> Callable[..., Path]:
    """Write a model as llama.cpp's converter does, with `change` to spoil it before it is written."""

    def make(
        model: LlamaForCausalLM = llama,
        kind: Kind = Kind.F32,
        change: Callable[[SimpleNamespace], None] = lambda _content: None,
    ) -> Path:
        tensors = {
            gguf_name(name): to_neighbour_rotation(name, tensor, model.config).numpy()
            for name, tensor in model.state_dict().items()
            if name != "lm_head.weight" or not model.config.tie_word_embeddings
        }
        content = SimpleNamespace(
            architecture="llama", metadata=metadata_of(model.config, tokenizer), tensors=tensors, kinds={}
        )
        change(content)
        path = tmp_path / "tiny.gguf"
        writer = gguf.GGUFWriter(path, content.architecture)
        for key, value in content.metadata.items():
            add_metadata(writer, key, value)
        for name, tensor in content.tensors.items():
            add_tensor(writer, name, tensor, content.kinds.get(name, kind))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return make


def gguf_name(name: str) -> str:
    for theirs, ours in GGUF_NAMES.items():
        name = name.replace(theirs, ours)
    return name


def to_neighbour_rotation(name: str, tensor: torch.Tensor, config: LlamaConfig) -> torch.Tensor:
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for projection, count in heads.items():
        if projection in name:
            halves = tensor.reshape(count, 2, -1, *tensor.shape[1:])
            return halves.swapaxes(1, 2).reshape(tensor.shape).contiguous()
    return tensor


def metadata_of(config: LlamaConfig, tokenizer: Tokenizer) -> dict[str, object]:
    vocabulary = tokenizer.get_vocab()
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return {
        "llama.embedding_length": config.hidden_size,
        "llama.feed_forward_length": config.intermediate_size,
        "llama.block_count": config.num_hidden_layers,
        "llama.attention.head_count": config.num_attention_heads,
        "llama.attention.head_count_kv": config.num_key_value_heads,
        "llama.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "llama.rope.freq_base": config.rope_parameters["rope_theta"],
        "llama.context_length": config.max_position_embeddings,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in SPECIAL else 1 for token in tokens],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in merges],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.chat_template": TEMPLATE,
    }


def add_metadata(writer: gguf.GGUFWriter, key: str, value: object) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def add_tensor(writer: gguf.GGUFWriter, name: str, tensor: np.ndarray, kind: Kind) -> None:
    """Matrices in `kind`, the rest in F32, as in the files people use; bytes are taken as they are."""
    if tensor.dtype == np.uint8:
        writer.add_tensor(name, tensor, raw_dtype=kind)
    elif tensor.ndim == 1 or kind == Kind.F32:
        writer.add_tensor(name, tensor)
    else:
        writer.add_tensor(name, gguf.quants.quantize(tensor, kind), raw_dtype=kind)
