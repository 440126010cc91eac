"""`EngineConfig`: how an engine runs a model."""

from dataclasses import dataclass

from sagellm_schemas import SettingsError

DTYPES = ("auto", "float32", "bfloat16", "float16")
DEVICES = ("auto", "cpu", "cuda")
KV_CACHE_DTYPES = ("auto", "fp8")
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
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingsError(f"{name} must be at least 1; got {value}", param=name)
        if self.max_batched_tokens < self.max_num_seqs:
            raise SettingsError(
                f"max_batched_tokens ({self.max_batched_tokens}) must be at least max_num_seqs "
                f"({self.max_num_seqs}), so that every running request can decode in every step",
                param="max_batched_tokens",
            )
