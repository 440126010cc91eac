"""A tiny model with random weights of each family, so made that everything special about the family matters.

Windows are shorter than the prompts, softcaps low, norms and biases random, and numbers of heads odd.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

VOCABULARY = 131
MAX_POSITIONS = 160
LONGEST_PROMPT = 75

_SHAPE: Mapping[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": MAX_POSITIONS,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": None,
    "tie_word_embeddings": False,
}


@dataclass(frozen=True)
class TinyModel:
    """How to make one. `family` is the beginning of the names of its classes in transformers.

    `without` has, for options of `ModelConfig`, a value under which the model must answer otherwise. With
    `long_factors` the model in transformers, too, goes by LongRoPE's long factors for sequences of any length.
    """

    name: str
    family: str
    options: Mapping[str, Any] = field(default_factory=dict)
    without: Mapping[str, Any] = field(default_factory=dict)
    config_class: str = ""
    model_class: str = ""
    max_model_len: int | None = None
    long_factors: bool = False

    def make(self) -> PreTrainedModel:
        """The model in transformers, float32."""
        torch.manual_seed(23)
        config_class = getattr(transformers, self.config_class or f"{self.family}Config")
        model_class = getattr(transformers, self.model_class or f"{self.family}ForCausalLM")
        options = dict(self.options)
        if "text_config" in options:
            options["text_config"] = {**_SHAPE, **options["text_config"]}
        else:
            options = {**_SHAPE, **options}
        model = model_class._from_config(config_class(**options), attn_implementation="eager").float().eval()
        if self.long_factors:
            rotary = model.model.rotary_emb
            frequencies, _ = ROPE_INIT_FUNCTIONS["longrope"](model.config, seq_len=MAX_POSITIONS)
            rotary.original_inv_freq.copy_(frequencies)
        generator = torch.Generator().manual_seed(5)
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                spread = 0.2 if name.endswith("bias") else 0.4
                parameter.data += spread * torch.randn(parameter.shape, generator=generator)
            elif parameter.data.std() == 0:  # what transformers leaves to a checkpoint
                parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator)
        return model

    def save(self, folder: Path) -> PreTrainedModel:
        """Write the model to `folder`, with a tokenizer that is as good as none; the model in transformers."""
        model = self.make()
        model.save_pretrained(folder)
        vocabulary = {f"t{number}": number for number in range(VOCABULARY)}
        Tokenizer(WordLevel(vocab=vocabulary, unk_token="t0")).save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "t0"}))
        return model


def prompt_of(length: int, seed: int = 1) -> list[int]:
    """Random token ids, none of which ends a sequence."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, VOCABULARY, (length,), generator=generator).tolist()


_ROPE = {"rope_theta": 500.0}
_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 40,
}
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 40, "beta_fast": 4.0}
_LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.2, 1.5],
    "long_factor": [2.0, 4.0, 6.5],
    "rope_theta": 300.0,
    "partial_rotary_factor": 0.75,
}
_PHI3 = {
    "rope_parameters": _LONGROPE,
    "original_max_position_embeddings": 50,
    "sliding_window": 30,
    "num_key_value_heads": 3,
}
_GEMMA = {
    "head_dim": 10,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "query_pre_attn_scalar": 21,
    "attention_bias": True,
    "tie_word_embeddings": True,
    "initializer_range": 0.1,
}
_GEMMA3 = _GEMMA | {
    "num_hidden_layers": 4,
    "sliding_window": 9,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 3.0, "rope_theta": 1e4},
        "sliding_attention": {"rope_type": "default", "rope_theta": 200.0},
    },
    "final_logit_softcapping": 4.0,
}
_QWEN3_MOE = {
    "head_dim": 12,
    "num_experts": 5,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 20,
    "num_hidden_layers": 4,
    "norm_topk_prob": True,
}

TINY_MODELS = (
    TinyModel("llama2", "Llama", {"num_key_value_heads": 6}),
    TinyModel(
        "llama3",
        "Llama",
        {"rope_parameters": _ROPE | _LLAMA3, "attention_bias": True, "mlp_bias": True, "head_dim": 12},
        without={"qkv_bias": False, "attention_out_bias": False, "mlp_bias": False, "scaling": None},
    ),
    TinyModel(
        "llama-linear",
        "Llama",
        {"rope_parameters": _ROPE | {"rope_type": "linear", "factor": 2.5}, "tie_word_embeddings": True},
        without={"scaling": None},
    ),
    TinyModel("llama-dynamic", "Llama", {"rope_parameters": _ROPE | {"rope_type": "dynamic", "factor": 2.0}}),
    TinyModel("llama-yarn", "Llama", {"rope_parameters": _ROPE | _YARN}, without={"scaling": None}),
    TinyModel("mistral", "Mistral", {"sliding_window": 7, "head_dim": 12}, without={"window": None}),
    TinyModel(
        "mixtral",
        "Mixtral",
        {"num_local_experts": 5, "num_experts_per_tok": 2, "sliding_window": 20},
        without={"window": None, "normalize": False},
    ),
    TinyModel(
        "qwen2",
        "Qwen2",
        {
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "use_sliding_window": True,
            "sliding_window": 11,
            "max_window_layers": 1,
        },
        without={"qkv_bias": False, "window": None},
    ),
    TinyModel(
        "qwen3",
        "Qwen3",
        {"num_attention_heads": 5, "num_key_value_heads": 5, "head_dim": 14, "tie_word_embeddings": True},
        without={"qk_norm": False},
    ),
    TinyModel(
        "qwen3-moe",
        "Qwen3Moe",
        _QWEN3_MOE | {"decoder_sparse_step": 2, "mlp_only_layers": [3]},
        without={"qk_norm": False, "normalize": False},
    ),
    TinyModel("qwen3-moe-unnormalized", "Qwen3Moe", _QWEN3_MOE | {"norm_topk_prob": False}, {"normalize": True}),
    TinyModel(
        "gemma2",
        "Gemma2",
        _GEMMA | {"sliding_window": 8, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0},
        without={
            "window": None,
            "attention_softcap": None,
            "logit_softcap": None,
            "attention_scale": 10**-0.5,
            "norm_offset": 0.0,
            "embedding_scale": 1.0,
            "activation": "silu",
            "qkv_bias": False,
        },
    ),
    TinyModel(
        "gemma3",
        "Gemma3",
        _GEMMA3,
        without={"window": None, "qk_norm": False, "scaling": None, "rope": 0},
        config_class="Gemma3TextConfig",
    ),
    TinyModel(
        "gemma3-that-sees",
        "Gemma3",
        {
            "text_config": _GEMMA3 | {"final_logit_softcapping": None},
            "vision_config": {
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": 28,
                "patch_size": 14,
            },
            "mm_tokens_per_image": 4,
            "image_token_index": VOCABULARY - 1,
            "boi_token_index": VOCABULARY - 2,
            "eoi_token_index": VOCABULARY - 3,
        },
        model_class="Gemma3ForConditionalGeneration",
    ),
    TinyModel("phi3", "Phi3", _PHI3, without={"window": None, "scaling": None}, long_factors=True),
    TinyModel("phi3-at-its-original-length", "Phi3", _PHI3, without={"scaling": None}, max_model_len=50),
)
