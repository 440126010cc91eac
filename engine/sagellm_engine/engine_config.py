"""`EngineConfig`: how an engine runs a model."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sagellm_schemas import SettingsError

DTYPES = ("auto", "float32", "bfloat16", "float16")
DEVICES = ("auto", "cpu", "cuda")
KV_CACHE_DTYPES = ("auto", "fp8")
SPECULATIONS = ("ngram", "draft")
MOST_DRAFT_TOKENS = 64
EXECUTORS = ("auto", "native", "torch")
QUANTIZATIONS = ("int8", "int4")


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Settings of one engine.

    `model` is a folder, a GGUF file, an alias or a Hugging Face id; `name` is what it is served as (default: the
    checkpoint's name). `dtype` is that of the weights; "auto" is the checkpoint's own. `quantization`, int8 or
    int4, rounds the weights of an unquantized model while they are loaded. `executor` computes: "native" are
    compiled kernels for this CPU, "torch" PyTorch's operations, "auto" the first that can be had. That is on a
    CPU; `device` "cuda" is Triton's kernels on a GPU, and "auto" a GPU if there is one. `kv_cache_dtype` "fp8"
    halves the KV cache of a GPU.

    The KV cache is `num_blocks` blocks of `block_size` tokens, or as many as fit `kv_cache_bytes`, or, with
    neither, a share of the memory that is free. `max_batched_tokens` is the budget of one step, prompt and decode
    tokens together; `max_chunk_tokens` further limits what one prompt may take of it. `max_model_len` counts
    prompt and output tokens and defaults to the model's own limit, or to what the KV cache holds if that is less.

    `adapters` are LoRA adapters that a request can choose: name to folder, as the peft library writes them.

    `speculation` guesses up to `num_draft_tokens` tokens of a sequence ahead, where that pays: "ngram" from what
    the text repeats, "draft" by `draft_model`, a small model with the same vocabulary.
    """

    model: str
    name: str = ""
    dtype: str = "auto"
    quantization: str | None = None
    device: str = "auto"
    executor: str = "auto"
    kv_cache_dtype: str = "auto"
    block_size: int = 16
    num_blocks: int | None = None
    kv_cache_bytes: int | None = None
    max_num_seqs: int = 64
    max_batched_tokens: int = 512
    max_chunk_tokens: int | None = None
    max_model_len: int | None = None
    enable_prefix_caching: bool = True
    num_threads: int | None = None
    adapters: Mapping[str, str] = field(default_factory=dict)
    speculation: str | None = None
    draft_model: str | None = None
    num_draft_tokens: int = 10

    def verify(self) -> None:
        """Check everything that can be checked without the model.

        Raises:
            SettingsError: naming the setting at fault.
        """
        if not self.model:
            raise SettingsError("model must be given", param="model")
        choices: dict[str, tuple[str | None, ...]] = {
            "dtype": DTYPES,
            "device": DEVICES,
            "executor": EXECUTORS,
            "kv_cache_dtype": KV_CACHE_DTYPES,
            "quantization": (None, *QUANTIZATIONS),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise SettingsError(
                    f"{name} must be one of {', '.join(filter(None, allowed))}; got {getattr(self, name)!r}",
                    param=name,
                )
        for name in (
            "block_size",
            "num_blocks",
            "kv_cache_bytes",
            "max_num_seqs",
            "max_batched_tokens",
            "max_chunk_tokens",
            "max_model_len",
            "num_threads",
            "num_draft_tokens",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingsError(f"{name} must be at least 1; got {value}", param=name)
        for name, folder in self.adapters.items():
            if not name or not folder:
                raise SettingsError(
                    f"an adapter needs a name and a folder; got {name!r}={folder!r}", param="adapters"
                )
        if self.block_size > 16 and self.block_size % 16:
            raise SettingsError(
                f"block_size must be at most 16 or a multiple of it; got {self.block_size}", param="block_size"
            )
        if self.max_batched_tokens < self.max_num_seqs:
            raise SettingsError(
                f"max_batched_tokens ({self.max_batched_tokens}) must be at least max_num_seqs "
                f"({self.max_num_seqs}), so that every running request can decode in every step",
                param="max_batched_tokens",
            )
        self._verify_speculation()

    def _verify_speculation(self) -> None:
        if self.speculation is not None and self.speculation not in SPECULATIONS:
            raise SettingsError(
                f"speculation must be one of {', '.join(SPECULATIONS)}; got {self.speculation!r}",
                param="speculation",
            )
        if self.speculation == "draft" and not self.draft_model:
            raise SettingsError("speculation with a draft model needs draft_model", param="draft_model")
        if self.draft_model and self.speculation != "draft":
            raise SettingsError(
                "draft_model is given, but speculation is not 'draft', so it would have no effect",
                param="draft_model",
            )
        if self.num_draft_tokens > MOST_DRAFT_TOKENS:
            raise SettingsError(
                f"num_draft_tokens must be at most {MOST_DRAFT_TOKENS}; got {self.num_draft_tokens}",
                param="num_draft_tokens",
            )
