"""`Layout`: how many GPUs share what."""

import msgspec

from .model_shape import ModelShape


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """A split of one model over `gpus` GPUs.

    `tp` GPUs share every matrix, `pp` groups of them share the layers. With `ep` above 1, `ep` such groups serve
    requests of their own, but hold the experts of a mixture together. All this is one replica; there are `dp`.
    """

    tp: int = 1
    pp: int = 1
    dp: int = 1
    ep: int = 1

    @property
    def replica_gpus(self) -> int:
        """GPUs that hold the model once."""
        return self.tp * self.pp * self.ep

    @property
    def gpus(self) -> int:
        """All GPUs."""
        return self.replica_gpus * self.dp

    @property
    def kind(self) -> str:
        """The original's ParallelismType: tp, pp, dp, ep or hybrid; "single" for one GPU."""
        split = [name for name in ("tp", "pp", "dp", "ep") if getattr(self, name) > 1]
        return split[0] if len(split) == 1 else "hybrid" if split else "single"

    def __str__(self) -> str:
        parts = [f"{name.upper()}={getattr(self, name)}" for name in ("tp", "pp", "dp", "ep")]
        return " ".join([parts[0], *(part for part in parts[1:] if not part.endswith("=1"))])


def obstacle(shape: ModelShape, layout: Layout) -> str | None:
    """Why this model cannot be split like this, whatever the GPUs; None if it can."""
    tp, ep = layout.tp, layout.ep
    if shape.heads % tp:
        return f"{shape.heads} attention heads cannot be split over TP={tp}"
    if shape.latent is None and shape.kv_heads % tp and tp % shape.kv_heads:
        return f"{shape.kv_heads} key-value heads cannot be split over TP={tp}"
    if shape.intermediate_size % tp:
        return f"an MLP of {shape.intermediate_size} columns cannot be split over TP={tp}"
    if layout.pp > shape.layers:
        return f"{shape.layers} layers cannot be split over PP={layout.pp}"
    if shape.experts is None:
        return "EP is for mixture-of-experts models" if ep > 1 else None
    if ep == 1 and shape.experts.intermediate_size % tp:
        return f"experts of {shape.experts.intermediate_size} columns cannot be split over TP={tp}"
    if ep > 1 and shape.experts.count % (ep * tp):
        return f"{shape.experts.count} experts cannot be divided among {ep * tp} GPUs"
    if ep > 1 and layout.pp > 1:
        return "EP together with PP is not planned: vLLM's data-parallel attention runs without pipelines"
    return None
