"""The sageLLM engine: paged KV cache, continuous batching, chunked prefill, prefix caching.

`LLM` is imported when it is first asked for, so that a service which needs only the tokenizer or the engine
contract does not pay for torch.
"""

from typing import TYPE_CHECKING

from .contract import AsyncEngine, Emit, GenerateRequest, ServedModel, StepOutput
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    from .llm import LLM

__all__ = ["LLM", "AsyncEngine", "Emit", "GenerateRequest", "ServedModel", "StepOutput", "Tokenizer"]


def __getattr__(name: str) -> object:
    if name == "LLM":
        from .llm import LLM

        return LLM
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
