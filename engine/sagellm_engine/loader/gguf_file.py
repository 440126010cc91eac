"""A GGUF file as a checkpoint."""

import mmap
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf.constants import GGMLQuantizationType
from numpy.typing import NDArray

from sagellm_engine.weights import Weight
from sagellm_schemas import ModelLoadError

from .expected_tensors import expected_shapes
from .gguf_config import read_config
from .gguf_dequantize import dequantize, supported
from .gguf_header import GgufTensor, read_header
from .gguf_names import hf_tensors
from .gguf_quantized import kept_quantized, packed_bits, read_quantized
from .gguf_rope import llama3_scaling
from .gguf_tokenizer import GgufTokenizer
from .read_ahead import read_ahead
from .stop_tokens import stop_token_ids

_FLOATS = (GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16)
_INTERLEAVED = ("llama",)
"""Architectures whose queries and keys the converter reorders, because llama.cpp rotates neighbours in them."""
_ROPE_DIVISORS = "rope_freqs.weight"
_LONGROPE_FACTORS = {"long_factor": "rope_factors_long.weight", "short_factor": "rope_factors_short.weight"}


class GgufFile:
    """One GGUF file, mapped into memory; weights are unpacked one by one as they are read."""

    def __init__(self, path: Path, name: str) -> None:
        """
        Raises:
            ModelLoadError: the file is damaged, or holds a model or a quantization that we do not run.
        """
        self.name = name
        self._file = path.name
        self._data = _map(path)
        header = read_header(self._data, self._file)
        self.config = read_config(header, self._scaling(header.metadata, header.tensors), self._file)
        needed = expected_shapes(self.config)
        architecture = str(header.metadata["general.architecture"])
        self._interleaved = architecture in _INTERLEAVED
        named = hf_tensors(architecture, header.tensors)
        self._tensors = {name: tensor for name, tensor in named.items() if name in needed}
        for hf_name, tensor in self._tensors.items():
            if not supported(tensor.kind):
                raise ModelLoadError(
                    f"{self._file} has {hf_name} in quantization {tensor.kind.name}, which is not supported; "
                    "use one of F32, F16, BF16, Q8_0, Q4_0, Q4_1 or Q2_K to Q6_K"
                )
        kinds = Counter(t.kind.name for t in self._tensors.values() if len(t.shape) == 2 and t.kind not in _FLOATS)
        self.quantization = kinds.most_common(1)[0][0] if kinds else ""
        tokenizer = GgufTokenizer(header.metadata, self._file)
        if len(tokenizer.tokens) > self.config.vocab_size:
            raise ModelLoadError(
                f"{self._file} has {len(tokenizer.tokens)} tokens, but embeddings for {self.config.vocab_size}"
            )
        self.tokenizer_json = tokenizer.to_json()
        template = header.metadata.get("tokenizer.chat_template", "")
        self.chat_template = template if isinstance(template, str) else ""
        self.bos_token = tokenizer.text(tokenizer.bos_id)
        self.eos_token = tokenizer.text(tokenizer.eos_id)
        self.eos_token_ids = stop_token_ids(tokenizer.eos_ids, self.chat_template, tokenizer.added_ids)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor by its Hugging Face name."""
        return {name: tensor.shape for name, tensor in self._tensors.items()}

    def packed_bits(self) -> dict[str, float]:
        """See `Checkpoint`."""
        found = {name: packed_bits(t.kind) for name, t in self._tensors.items() if len(t.shape) == 2}
        return {name: bits for name, bits in found.items() if bits is not None}

    def tensors(self) -> Iterator[tuple[str, Weight]]:
        """Each tensor by its Hugging Face name, unpacked a few ahead in threads.

        Matrices of 4 to 8 bits stay as they are; those of the rarer kinds become float32.
        """
        return read_ahead((name, partial(self._read, name, tensor)) for name, tensor in self._tensors.items())

    def _read(self, name: str, tensor: GgufTensor) -> Weight:
        raw = self._raw(tensor)
        if self._interleaved and ".q_proj." in name:
            raw = _to_half_rotation(raw, tensor.shape[0], self.config.num_heads)
        elif self._interleaved and ".k_proj." in name:
            raw = _to_half_rotation(raw, tensor.shape[0], self.config.num_kv_heads)
        if raw.ndim == 2 and kept_quantized(tensor.kind):
            return read_quantized(raw, tensor.kind)
        return dequantize(raw, tensor.kind)

    def _raw(self, tensor: GgufTensor) -> NDArray[np.uint8]:
        """The tensor's bytes, shape (..., bytes per row)."""
        data = np.frombuffer(self._data, np.uint8, tensor.size_bytes, tensor.start)
        return data.reshape(*tensor.shape[:-1], -1)

    def _scaling(self, metadata: dict[str, object], tensors: dict[str, GgufTensor]) -> dict[str, Any] | None:
        """The rotary scaling that is in tensors: Llama 3's divisors, or LongRoPE's factors."""
        rope = f"{metadata.get('general.architecture')}.rope"
        if _ROPE_DIVISORS in tensors:
            theta = metadata.get(f"{rope}.freq_base", 10000.0)
            if not isinstance(theta, float):
                raise ModelLoadError(f"{self._file} has a {rope}.freq_base that is no number")
            return llama3_scaling(self._numbers(tensors[_ROPE_DIVISORS]), theta, self._file)
        if all(name in tensors for name in _LONGROPE_FACTORS.values()):
            factors = {key: self._numbers(tensors[name]).tolist() for key, name in _LONGROPE_FACTORS.items()}
            return factors | {
                "rope_type": "longrope",
                "attention_factor": metadata.get(f"{rope}.scaling.attn_factor"),
            }
        return None

    def _numbers(self, tensor: GgufTensor) -> torch.Tensor:
        if tensor.kind != GGMLQuantizationType.F32:
            raise ModelLoadError(f"{self._file} has rotary factors that cannot be read")
        return dequantize(self._raw(tensor), tensor.kind)


def _map(path: Path) -> mmap.mmap:
    """The file's bytes, read when touched; private, so that writing to a tensor cannot change the file."""
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{path} cannot be read: {error}") from error


def _to_half_rotation(raw: NDArray[np.uint8], rows: int, heads: int) -> NDArray[np.uint8]:
    """Put the rows of each head back in the order that rotates the first half of a head against the second.

    llama.cpp rotates neighbouring rows, so its converter interleaves the halves of query and key projections.
    """
    pairs = raw.reshape(heads, rows // heads // 2, 2, -1)
    return pairs.swapaxes(1, 2).reshape(raw.shape)
