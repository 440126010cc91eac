"""A model written as a Hugging Face folder, so that other engines can be measured on its weights."""

import json
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from sagellm_engine.loader import Checkpoint
from sagellm_engine.weights import GroupQuantized, Weight
from sagellm_schemas import UnsupportedParameter

MODEL_TYPES = {"LlamaForCausalLM": "llama", "MistralForCausalLM": "mistral"}
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def write_hf_folder(checkpoint: Checkpoint, folder: Path, dtype: str) -> None:
    """Write `checkpoint` to `folder`, with its weights rounded to `dtype`. They are held in memory meanwhile.

    Raises:
        UnsupportedParameter: its config cannot be spelt for others.
    """
    if checkpoint.config.architecture not in MODEL_TYPES:
        raise UnsupportedParameter(
            f"{checkpoint.name} cannot be written as a Hugging Face folder: only {', '.join(MODEL_TYPES)} can, "
            f"and it is {checkpoint.config.architecture}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: _plain(tensor, DTYPES[dtype]) for name, tensor in checkpoint.tensors()}
    # transformers refuses a file that does not name the framework it came from.
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "tokenizer.json").write_bytes(checkpoint.tokenizer_json)
    tokens = _token_ids(checkpoint)
    _write_json(folder / "config.json", _model_config(checkpoint, dtype) | tokens)
    _write_json(folder / "generation_config.json", tokens | {"eos_token_id": checkpoint.eos_token_ids})
    _write_json(folder / "tokenizer_config.json", _tokenizer_config(checkpoint))
    if checkpoint.chat_template:
        (folder / "chat_template.jinja").write_text(checkpoint.chat_template, encoding="utf-8")


def _plain(weight: Weight, dtype: torch.dtype) -> torch.Tensor:
    tensor = weight.dequantize() if isinstance(weight, GroupQuantized) else weight
    return tensor.to(dtype).contiguous()


def _model_config(checkpoint: Checkpoint, dtype: str) -> dict[str, Any]:
    """`config.json` in the spelling that transformers 4 and 5 and vLLM all read."""
    config = checkpoint.config
    [rope] = config.ropes
    return {
        "architectures": [config.architecture],
        "model_type": MODEL_TYPES[config.architecture],
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": rope.theta,
        "rope_scaling": msgspec.to_builtins(rope.scaling),
        "max_position_embeddings": config.max_position_embeddings,
        "sliding_window": config.layers[0].window,
        "tie_word_embeddings": config.tie_word_embeddings,
        "attention_bias": config.qkv_bias,
        "mlp_bias": config.mlp_bias,
        "torch_dtype": dtype,
    }


def _tokenizer_config(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": checkpoint.bos_token or None,
        "eos_token": checkpoint.eos_token or None,
        "chat_template": checkpoint.chat_template or None,
        "model_max_length": checkpoint.config.max_position_embeddings,
        "clean_up_tokenization_spaces": False,
    }


def _token_ids(checkpoint: Checkpoint) -> dict[str, Any]:
    tokenizer = Tokenizer.from_buffer(checkpoint.tokenizer_json)
    return {
        "bos_token_id": tokenizer.token_to_id(checkpoint.bos_token) if checkpoint.bos_token else None,
        "eos_token_id": tokenizer.token_to_id(checkpoint.eos_token) if checkpoint.eos_token else None,
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
