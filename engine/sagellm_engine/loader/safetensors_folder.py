"""A Hugging Face folder with safetensors as a checkpoint."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open

from sagellm_engine.config import read_hf_config
from sagellm_engine.weights import Weight
from sagellm_schemas import ModelLoadError

from .expected_tensors import expected_shapes
from .hf_tokenizer import read_tokenizer
from .json_file import read_json
from .quantization import Scheme, Source, StoredTensor, read_scheme
from .read_ahead import read_ahead
from .stop_tokens import stop_token_ids
from .tensor_names import Part, canonical_name, expert_parts

_INDEX = "model.safetensors.index.json"
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class SafetensorsFolder:
    """A folder with `config.json`, `tokenizer.json` and safetensors, sharded or not; weights are memory-mapped."""

    def __init__(self, path: Path, name: str) -> None:
        """
        Raises:
            ModelLoadError: a file is missing or damaged, or the model is not one we run.
        """
        self.name = name
        config = read_json(path / "config.json")
        self._shards = [_open(file) for file in _weight_files(path)]
        if config.get("dtype") is None and config.get("torch_dtype") is None:
            config |= {"dtype": _stored_dtype(self._shards)}
        self.config = read_hf_config(config)
        scheme = read_scheme(config)
        self.quantization = scheme.name if scheme else ""
        self._sources = self._locate(set(expected_shapes(self.config)), scheme)
        tokenizer = read_tokenizer(path)
        self.tokenizer_json = tokenizer.json
        self.chat_template = tokenizer.chat_template
        generation = read_json(path / "generation_config.json", optional=True)
        eos_ids = [*_eos_ids(generation), *_eos_ids(config), tokenizer.id_of(tokenizer.eos_token)]
        self.bos_token = tokenizer.bos_token
        self.eos_token_ids = stop_token_ids(eos_ids, self.chat_template, tokenizer.added_ids)
        self.eos_token = tokenizer.eos_token or (
            tokenizer.text(self.eos_token_ids[0]) if self.eos_token_ids else ""
        )

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor, from the headers of the shards."""
        return {name: source.shape for name, source in self._sources.items()}

    def packed_bits(self) -> dict[str, float]:
        """See `Checkpoint`."""
        return {name: s.packed_bits for name, s in self._sources.items() if s.packed_bits is not None}

    def tensors(self) -> Iterator[tuple[str, Weight]]:
        """Each tensor, shard by shard: plain ones as views of the mapped file, quantized ones unpacked."""
        return read_ahead((name, source.read) for name, source in self._sources.items())

    def _locate(self, needed: set[str], scheme: Scheme | None) -> dict[str, Source]:
        """What each of the `needed` tensors that are there is read from."""
        stored: dict[str, StoredTensor] = {}
        for shard in self._shards:
            for name in shard.keys():  # noqa: SIM118 (not a mapping)
                whole = _Stored(name, shard)
                known_as = canonical_name(name)
                stored[known_as] = whole
                stored |= {part: whole.part(*at) for part, at in expert_parts(known_as, whole.shape).items()}
        found: dict[str, Source] = {}
        if scheme is not None:
            for name in sorted(needed):
                source = scheme.find(name.removesuffix(".weight"), stored) if name.endswith(".weight") else None
                if source is not None:
                    found[name] = source
        for name, tensor in stored.items():
            if name not in needed or name in found:
                continue
            if tensor.dtype not in _DTYPES:
                raise ModelLoadError(
                    f"tensor {name} of {self.name} is stored as {tensor.dtype}; supported are {', '.join(_DTYPES)}"
                )
            found[name] = tensor
        return found


class _Stored:
    """One tensor of a shard, or a part of one; see `StoredTensor`."""

    packed_bits = None

    def __init__(self, name: str, shard: Any, part: Part | None = None) -> None:
        header = shard.get_slice(name)
        self.name = name
        self.shape: tuple[int, ...] = tuple(header.get_shape())
        self.dtype: str = header.get_dtype()
        self._shard = shard
        self._part = part
        if part is not None:
            _, rows = part
            self.shape = (rows.stop - rows.start, self.shape[-1])

    def part(self, expert: int, rows: slice) -> "_Stored":
        """Some rows of one expert's matrix, where this has all experts of a layer."""
        return _Stored(self.name, self._shard, (expert, rows))

    def read(self) -> torch.Tensor:
        if self._part is None:
            return self._shard.get_tensor(self.name)  # type: ignore[no-any-return]
        return self._shard.get_slice(self.name)[self._part]  # type: ignore[no-any-return]


def _weight_files(folder: Path) -> list[Path]:
    """The shards the index names, or else the one file there is."""
    if (folder / _INDEX).is_file():
        weight_map = read_json(folder / _INDEX).get("weight_map")
        try:
            names = sorted(set(msgspec.convert(weight_map, dict[str, str]).values()))
        except msgspec.ValidationError as error:
            raise ModelLoadError(f"{folder / _INDEX} has no usable weight_map: {error}") from None
        files = [folder / name for name in names]
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise ModelLoadError(f"{folder} lacks {', '.join(missing)}, which {_INDEX} names; fetch it again")
        return files
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    others = sorted(folder.glob("*.safetensors"))
    if len(others) == 1:
        return others
    if others:
        raise ModelLoadError(
            f"{folder} has {len(others)} safetensors files but no {_INDEX} to say which belong together"
        )
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt*")):
        raise ModelLoadError(
            f"{folder} has only pickled PyTorch weights, which can run code and are never opened here; "
            "convert them to safetensors"
        )
    raise ModelLoadError(f"{folder} has no weights: model.safetensors, or its shards and {_INDEX}, must be there")


def _open(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ModelLoadError(f"{file} is damaged or incomplete ({error}); fetch it again") from error


def _stored_dtype(shards: list[Any]) -> str | None:
    """What stands in for the `dtype` of a config that has none: the first tensor's that we compute in."""
    for shard in shards:
        for name in shard.keys():  # noqa: SIM118 (not a mapping)
            dtype = _DTYPES.get(shard.get_slice(name).get_dtype())
            if dtype is not None:
                return dtype
    return None


def _eos_ids(config: dict[str, Any]) -> list[int]:
    """`eos_token_id` is a number, a list of them, or null."""
    with contextlib.suppress(msgspec.ValidationError):
        ids = msgspec.convert(config.get("eos_token_id"), int | list[int] | None)
        return ids if isinstance(ids, list) else [] if ids is None else [ids]
    raise ModelLoadError(f"eos_token_id is {config['eos_token_id']!r}, neither a token id nor a list of them")
