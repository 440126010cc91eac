"""Rotary embeddings of a Hugging Face config: `rope_parameters` (transformers 5), or the two keys before it."""

from typing import Any

import msgspec

from sagellm_schemas import ModelLoadError

from .hf_config import HFConfig
from .rope import LinearScaling, Llama3Scaling, LongRopeScaling, Rope, RopeScaling, YarnScaling

_SCALINGS: dict[str, type[RopeScaling]] = {
    "linear": LinearScaling,
    "llama3": Llama3Scaling,
    "yarn": YarnScaling,
    "longrope": LongRopeScaling,
}
_UNSCALED = ("default", "dynamic")
"""Dynamic scaling begins beyond `max_position_embeddings`, and no sequence here is longer than that."""


def rope_parameters(config: HFConfig) -> dict[str, Any]:
    """The parameters in `rope_parameters` or `rope_scaling`; empty if there are none."""
    for key in ("rope_parameters", "rope_scaling"):
        if config.has(key) and (parameters := config.value(key, dict)):
            return parameters
    return {}


def read_rope(config: HFConfig, parameters: dict[str, Any], head_dim: int, *, partial: bool = False) -> Rope:
    """The rotary embedding that `parameters` and, where they have none, the keys beside them describe.

    `partial` families may rotate a fraction of a head.

    Raises:
        ModelLoadError: a parameter is missing or wrong, or the scaling is not one we know.
    """
    if any(isinstance(value, dict) for value in parameters.values()):
        raise ModelLoadError(
            "the model config has rotary parameters by type of layer, which is not supported for it"
        )
    own = HFConfig(parameters)
    theta = (own if own.has("rope_theta") else config).positive("rope_theta", 10000.0)
    fraction = (own if own.has("partial_rotary_factor") else config).positive("partial_rotary_factor", 1.0)
    rotated = int(head_dim * min(fraction, 2.0))
    if rotated % 2 or not 0 < rotated <= head_dim or (rotated < head_dim and not partial):
        raise ModelLoadError(
            f"the model config rotates {rotated} of {head_dim} dimensions of a head, which is not supported"
        )
    scaling = _scaling(config, own, parameters, rotated)
    if isinstance(scaling, YarnScaling) and theta <= 1:
        raise ModelLoadError(
            f"the model config has rope_theta {theta}, which must be above 1 for rope scaling 'yarn'"
        )
    return Rope(theta=theta, rotated=rotated, scaling=scaling)


def _scaling(config: HFConfig, own: HFConfig, parameters: dict[str, Any], rotated: int) -> RopeScaling | None:
    key = "rope_type" if own.has("rope_type") else "type"
    kind = own.value(key, str, "default")
    kind = "longrope" if kind == "su" else kind  # LongRoPE's name in the first Phi-3 models
    if kind in _UNSCALED:
        return None
    if kind not in _SCALINGS:
        raise ModelLoadError(
            f"rope scaling {kind!r} is not supported; supported are {', '.join((*_UNSCALED, *_SCALINGS))}"
        )
    longest = config.size("max_position_embeddings")
    beside = config if config.has("original_max_position_embeddings") else own
    original = beside.positive("original_max_position_embeddings", float(longest))
    given = {name: value for name, value in parameters.items() if value is not None}
    given |= {"rope_type": kind, "original_max_position_embeddings": original}
    if kind in ("yarn", "longrope"):
        given.setdefault("factor", longest / original)
    try:
        scaling: RopeScaling = msgspec.convert(given, _SCALINGS[kind])
    except msgspec.ValidationError as error:
        raise ModelLoadError(f"the model config has rope scaling {kind!r} that is wrong: {error}") from None
    if isinstance(scaling, Llama3Scaling) and scaling.low_freq_factor >= scaling.high_freq_factor:
        raise ModelLoadError(
            "the model config has rope scaling 'llama3' whose low_freq_factor is not the lower one"
        )
    if isinstance(scaling, LongRopeScaling) and {len(scaling.short_factor), len(scaling.long_factor)} != {
        rotated // 2
    }:
        raise ModelLoadError(
            f"the model config has rope scaling 'longrope' with {len(scaling.short_factor)} short and "
            f"{len(scaling.long_factor)} long factors; {rotated // 2} of each are needed"
        )
    return scaling
