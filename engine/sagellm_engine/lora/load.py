"""A peft folder as an `Adapter` for one model."""

import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from sagellm_engine.config import ModelConfig
from sagellm_schemas import ModelLoadError

from .adapter import Adapter, LowRank, ProductKind
from .modules import Place, layer_and_name, places
from .peft_config import PeftConfig, read_config

MAX_RANK = 256
WEIGHTS_FILE = "adapter_model.safetensors"

_TENSOR = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.(?:default\.)?weight")
_DTYPES = ("F32", "F16", "BF16")

Matrices = dict[str, dict[str, torch.Tensor]]
"""By module, its "A" (rank, in) and "B" (out, rank)."""


def load_adapter(name: str, folder: Path, config: ModelConfig) -> Adapter:
    """The adapter in `folder`, to be known as `name`, checked against the model's shapes.

    Raises:
        ModelLoadError: it is missing, damaged, of another model, or does something that is not run here.
    """
    try:
        return _load(name, folder, config)
    except ModelLoadError as error:
        raise ModelLoadError(f"adapter {name!r} cannot be loaded: {error}") from None
    except OSError as error:  # no permission, a failing disk, a name too long
        raise ModelLoadError(f"adapter {name!r} cannot be read: {error}") from error


def _load(name: str, folder: Path, config: ModelConfig) -> Adapter:
    if not folder.is_dir():
        raise ModelLoadError(f"there is no folder {folder}")
    peft = read_config(folder)
    matrices = _read(folder / WEIGHTS_FILE)
    _check_targets(peft, matrices, folder)
    known = places(config)
    layers: list[dict[ProductKind, tuple[LowRank, ...]]] = [{} for _ in range(config.num_layers)]
    for module, pair in matrices.items():
        at = layer_and_name(module)
        if at is None or at[1] not in known:
            raise ModelLoadError(
                f"{folder} changes {module}; only these modules of a layer can be changed: {', '.join(known)}"
            )
        index, place = at[0], known[at[1]]
        if index >= config.num_layers:
            raise ModelLoadError(f"{folder} changes {module}, but the model has {config.num_layers} layers")
        part = _part(module, pair, place, peft)
        layers[index][place.kind] = (*layers[index].get(place.kind, ()), part)
    return Adapter(name, layers)


def _read(path: Path) -> Matrices:
    """Every tensor of the file, in float32."""
    if not path.is_file():
        pickled = path.with_suffix(".bin").is_file()
        why = "; pickled weights can run code and are never opened here: convert them" if pickled else ""
        raise ModelLoadError(f"{path.parent} has no {path.name}{why}")
    try:
        file: Any = safe_open(path, framework="pt")
    except SafetensorError as error:
        raise ModelLoadError(f"{path} is damaged or incomplete ({error}); fetch it again") from error
    matrices: Matrices = {}
    for tensor_name in file.keys():  # noqa: SIM118 (not a mapping)
        found = _TENSOR.fullmatch(tensor_name)
        if found is None:
            raise ModelLoadError(f"{path} has tensor {tensor_name}, which is no low-rank part of a product")
        dtype = file.get_slice(tensor_name).get_dtype()
        if dtype not in _DTYPES:
            raise ModelLoadError(
                f"tensor {tensor_name} of {path} is stored as {dtype}; supported are {', '.join(_DTYPES)}"
            )
        tensor: torch.Tensor = file.get_tensor(tensor_name).to(torch.float32, copy=True)
        if not bool(tensor.isfinite().all()):
            raise ModelLoadError(f"tensor {tensor_name} of {path} has numbers that are not finite")
        matrices.setdefault(found[1], {})[found[2]] = tensor
    if not matrices:
        raise ModelLoadError(f"{path} has no tensors")
    return matrices


def _check_targets(peft: PeftConfig, matrices: Matrices, folder: Path) -> None:
    """A module that the config names, and no tensor is of, means that something is missing."""
    targets = peft.target_modules if isinstance(peft.target_modules, list) else []
    for target in targets:
        if not any(module == target or module.endswith("." + target) for module in matrices):
            raise ModelLoadError(f"{folder} has no tensor for {target}, which its target_modules name")


def _part(module: str, pair: dict[str, torch.Tensor], place: Place, peft: PeftConfig) -> LowRank:
    rank = peft.rank(module)
    if rank > MAX_RANK:
        raise ModelLoadError(f"{module} has rank {rank}; the highest that is supported is {MAX_RANK}")
    for letter, expected in (("A", (rank, place.inputs)), ("B", (place.outputs, rank))):
        if letter not in pair:
            raise ModelLoadError(f"tensor {module}.lora_{letter}.weight is missing")
        found = tuple(pair[letter].shape)
        if found != expected:
            raise ModelLoadError(
                f"tensor {module}.lora_{letter}.weight has shape {found}, but this model with rank {rank} needs "
                f"{expected}"
            )
    return LowRank(place.first_row, pair["A"].contiguous(), (pair["B"] * peft.scaling(module)).contiguous())
