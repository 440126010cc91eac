"""`PeftConfig`: an adapter's `adapter_config.json`, as the peft library writes it."""

import math
import re
from pathlib import Path
from typing import TypeVar

import msgspec

from sagellm_engine.loader.json_file import read_json
from sagellm_schemas import ModelLoadError

CONFIG_FILE = "adapter_config.json"

T = TypeVar("T")

_NOT_RUN = (
    "modules_to_save",
    "use_dora",
    "use_qalora",
    "lora_bias",
    "fan_in_fan_out",
    "layer_replication",
    "megatron_config",
    "target_parameters",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "arrow_config",
)
"""What would load but give other answers than the adapter's."""

_CHANGES_THE_MODEL = ("pissa", "olora", "corda", "loftq")
"""Initializations that leave the model with other weights than those of its checkpoint."""


class PeftConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What is needed of the file. `alpha` and `rank` of a module depend on patterns over its name."""

    r: int
    lora_alpha: float
    use_rslora: bool = False
    target_modules: list[str] | str | None = None
    rank_pattern: dict[str, int] = {}
    alpha_pattern: dict[str, float] = {}

    def rank(self, module: str) -> int:
        """The rank of the adapter at `module`, such as `model.layers.0.self_attn.q_proj`."""
        return _by_pattern(self.rank_pattern, module, self.r)

    def scaling(self, module: str) -> float:
        """The factor on b · a: alpha / rank, or with `use_rslora` alpha / sqrt(rank) (Kalajdzievski, 2023)."""
        rank = self.rank(module)
        alpha = _by_pattern(self.alpha_pattern, module, self.lora_alpha)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


def read_config(folder: Path) -> PeftConfig:
    """The config of the adapter in `folder`.

    Raises:
        ModelLoadError: the file is missing or damaged, or the adapter does something that is not run here.
    """
    path = folder / CONFIG_FILE
    fields = read_json(path)
    kind = fields.get("peft_type")
    if kind != "LORA":
        raise ModelLoadError(f"{path} has peft_type {kind!r}; only 'LORA' is supported")
    if fields.get("bias", "none") != "none":
        raise ModelLoadError(f"{path} has bias {fields['bias']!r}; only 'none' is supported: train without biases")
    for name in _NOT_RUN:
        if fields.get(name):
            raise ModelLoadError(f"{path} has {name} {fields[name]!r}, which is not supported; train without it")
    start = fields.get("init_lora_weights")
    if isinstance(start, str) and start.startswith(_CHANGES_THE_MODEL):
        raise ModelLoadError(
            f"{path} has init_lora_weights {start!r}, which changes the model's own weights; "
            "save the adapter with peft's path_initial_model_for_weight_conversion"
        )
    try:
        config = msgspec.convert({name: value for name, value in fields.items() if value is not None}, PeftConfig)
    except msgspec.ValidationError as error:
        raise ModelLoadError(f"{path} cannot be used: {error}") from None
    if min(config.r, *config.rank_pattern.values(), 1) < 1:
        raise ModelLoadError(f"{path} has a rank below 1")
    for pattern in (*config.rank_pattern, *config.alpha_pattern):
        try:
            re.compile(pattern)
        except re.error as error:
            raise ModelLoadError(f"{path} has the pattern {pattern!r}, which is none: {error}") from None
    return config


def _by_pattern(patterns: dict[str, T], module: str, default: T) -> T:
    """The value of the first pattern that matches the end of `module`, as peft looks it up."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default
