"""Model families: one function each that turns a Hugging Face config into a `ModelConfig`."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from sagellm_engine.config.hf_config import HFConfig
from sagellm_engine.config.model_config import ModelConfig
from sagellm_schemas import ModelLoadError

from .gemma2 import read_gemma2
from .gemma3 import read_gemma3
from .llama import read_llama
from .mistral import read_mistral
from .mixtral import read_mixtral
from .phi3 import read_phi3
from .qwen2 import read_qwen2
from .qwen3 import read_qwen3
from .qwen3_moe import read_qwen3_moe

_FAMILIES: Mapping[str, Callable[[HFConfig], ModelConfig]] = MappingProxyType(
    {
        "LlamaForCausalLM": read_llama,
        "MistralForCausalLM": read_mistral,
        "MixtralForCausalLM": read_mixtral,
        "Qwen2ForCausalLM": read_qwen2,
        "Qwen3ForCausalLM": read_qwen3,
        "Qwen3MoeForCausalLM": read_qwen3_moe,
        "Gemma2ForCausalLM": read_gemma2,
        "Gemma3ForCausalLM": read_gemma3,
        "Gemma3ForConditionalGeneration": read_gemma3,
        "Phi3ForCausalLM": read_phi3,
    }
)

SUPPORTED_ARCHITECTURES = tuple(_FAMILIES)
"""Names as in `config.json`."""


def read_hf_config(config: Mapping[str, Any]) -> ModelConfig:
    """The model that a Hugging Face `config.json` describes, as transformers 4 or 5 writes it.

    Of a model that also sees, this is the part that reads and writes text.

    Raises:
        ModelLoadError: a key is missing or has the wrong type, the numbers do not fit together, or the
            architecture, or what is special about the model, is not something we run.
    """
    whole = HFConfig(config)
    text = whole.value("text_config", dict) if whole.has("text_config") else {}
    names = whole.value("architectures", list[str])
    for name in names:
        if name in _FAMILIES:
            return _FAMILIES[name](HFConfig({**config, **text, "architectures": [name]}))
    raise ModelLoadError(
        f"architecture {', '.join(names) or '(none named)'} is not supported; "
        f"supported are {', '.join(SUPPORTED_ARCHITECTURES)}"
    )
