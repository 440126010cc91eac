"""The quantization method that a `config.json` names."""

import logging
import re
from typing import Any, TypeVar

import msgspec

from sagellm_schemas import ModelLoadError

from .awq import Awq
from .compressed_tensors import CompressedTensors, Group
from .gptq import Gptq
from .scheme import Scheme

log = logging.getLogger(__name__)

SUPPORTED = "GPTQ, AWQ and compressed-tensors with whole numbers of 4 or 8 bits, and GGUF files"

_FORMATS = ("pack-quantized", "int-quantized", "naive-quantized")
"""Of compressed-tensors: packed into 32-bit numbers, or one byte a weight; the last is an older name for it."""

_Config = TypeVar("_Config", bound=msgspec.Struct)


class _GptqConfig(msgspec.Struct):
    bits: int
    group_size: int
    desc_act: bool = False
    checkpoint_format: str | None = None
    format: str | None = None
    pack_dtype: str = "int32"


class _AwqConfig(msgspec.Struct):
    bits: int | None = None
    w_bit: int | None = None
    group_size: int | None = None
    q_group_size: int | None = None
    zero_point: bool = True
    version: str = "gemm"


class _Numbers(msgspec.Struct):
    num_bits: int
    type: str = "int"
    strategy: str | None = None
    group_size: int | None = None


class _Group(msgspec.Struct):
    targets: list[str]
    weights: _Numbers | None = None
    input_activations: dict[str, Any] | None = None
    output_activations: dict[str, Any] | None = None
    format: str | None = None


class _Sparsity(msgspec.Struct):
    format: str = "dense"


class _CompressedTensorsConfig(msgspec.Struct):
    config_groups: dict[str, _Group]
    format: str = "pack-quantized"
    sparsity_config: _Sparsity | None = None


def read_scheme(config: dict[str, Any]) -> Scheme | None:
    """The method in the `quantization_config` of a model's `config`; None if it has none.

    Raises:
        ModelLoadError: the method, or a variant of it, is not one we read.
    """
    quantization = config.get("quantization_config") or config.get("compression_config")
    if not quantization:
        return None
    if not isinstance(quantization, dict):
        raise ModelLoadError(f"the model config has quantization_config {quantization!r}, which is no object")
    method = str(quantization.get("quant_method", "an unnamed method")).lower()
    if method == "gptq":
        return _gptq(_parse(quantization, _GptqConfig))
    if method == "awq":
        return _awq(_parse(quantization, _AwqConfig))
    if method == "compressed-tensors":
        return _compressed_tensors(_parse(quantization, _CompressedTensorsConfig))
    raise _unsupported(f"with {method}")


def _gptq(config: _GptqConfig) -> Gptq:
    layout = config.checkpoint_format or config.format or "gptq"
    if layout not in ("gptq", "gptq_v2"):
        raise _unsupported(f"with GPTQ in the {layout} layout")
    if config.bits not in (4, 8) or config.pack_dtype != "int32":
        raise _unsupported(f"with GPTQ to {config.bits} bits in {config.pack_dtype}")
    if config.desc_act:
        log.warning("GPTQ weights in act-order cannot stay quantized; they take 16 or 32 bits each in memory")
    return Gptq(
        config.bits, _group_size(config.group_size), zeros_less_1=layout == "gptq", act_order=config.desc_act
    )


def _awq(config: _AwqConfig) -> Awq:
    bits = config.bits or config.w_bit or 4
    if bits != 4:
        raise _unsupported(f"with AWQ to {bits} bits")
    if config.version.lower() != "gemm" or not config.zero_point:
        layout = config.version if config.zero_point else "zero_point false"
        raise _unsupported(f"with AWQ in the {layout} layout")
    return Awq(_group_size(config.group_size or config.q_group_size or 128))


def _compressed_tensors(config: _CompressedTensorsConfig) -> CompressedTensors:
    sparsity = config.sparsity_config
    if sparsity is not None and sparsity.format != "dense":
        raise _unsupported(f"with compressed-tensors and made sparse ({sparsity.format})")
    groups = []
    for group in config.config_groups.values():
        layout, weights = group.format or config.format, group.weights
        if layout not in _FORMATS:
            raise _unsupported(f"with compressed-tensors in the {layout} format")
        if group.input_activations or group.output_activations:
            raise _unsupported("with compressed-tensors together with the activations")
        if weights is None or weights.type != "int" or weights.num_bits not in (4, 8):
            kind = "no weights" if weights is None else f"{weights.type}{weights.num_bits} weights"
            raise _unsupported(f"with compressed-tensors to {kind}")
        if weights.strategy not in (None, "channel", "group"):
            raise _unsupported(f"with compressed-tensors by the strategy {weights.strategy}")
        for target in group.targets:
            _check_pattern(target)
        groups.append(Group(tuple(group.targets), weights.num_bits, _group_size(weights.group_size or -1)))
    return CompressedTensors(tuple(groups))


def _parse(quantization: dict[str, Any], kind: type[_Config]) -> _Config:
    try:
        return msgspec.convert(quantization, kind)
    except msgspec.ValidationError as error:
        raise ModelLoadError(f"the model config has a quantization_config that cannot be read: {error}") from None


def _check_pattern(target: str) -> None:
    try:
        re.compile(target.removeprefix("re:"))
    except re.error as error:
        raise ModelLoadError(
            f"the quantization_config has a target {target!r} that is no pattern: {error}"
        ) from None


def _group_size(value: int) -> int:
    if value != -1 and value < 1:
        raise ModelLoadError(f"the model config has a quantization_config with group_size {value}")
    return value


def _unsupported(how: str) -> ModelLoadError:
    return ModelLoadError(f"the weights are quantized {how}, which is not supported; supported are {SUPPORTED}")
