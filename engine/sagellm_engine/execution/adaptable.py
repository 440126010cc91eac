"""Whether a model has the products that adapters change."""

from collections.abc import Sequence

from sagellm_engine.lora import Adapter
from sagellm_engine.models.decoder import Experts, Layer, P
from sagellm_schemas import ModelLoadError


def check_adaptable(layers: Sequence[Layer[P]], adapters: Sequence[Adapter]) -> None:
    """Check what an adapter's file cannot tell: that its feed-forward parts find a dense layer.

    Raises:
        ModelLoadError: one changes a layer that has experts instead.
    """
    for adapter in adapters:
        for index, (layer, changed) in enumerate(zip(layers, adapter.layers, strict=True)):
            if isinstance(layer.mlp, Experts) and not changed.keys().isdisjoint(("gate_up", "down")):
                raise ModelLoadError(
                    f"adapter {adapter.name!r} cannot be loaded: it changes the feed-forward part of "
                    f"layer {index}, where this model has experts"
                )
