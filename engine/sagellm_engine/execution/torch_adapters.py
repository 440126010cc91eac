"""Adapters in PyTorch: rows of a step that have one get its low-rank parts added, the others are not touched."""

from collections.abc import Sequence

import torch

from sagellm_engine.lora import Adapter, ProductKind

from .span import Span


class AdapterStep:
    """What the adapters do in one step."""

    def __init__(self, adapters: Sequence[Adapter], spans: list[Span]) -> None:
        """`Span.adapter` is an index into `adapters`."""
        rows: dict[int, list[int]] = {}
        for span in spans:
            if span.adapter is not None:
                rows.setdefault(span.adapter, []).extend(range(span.row, span.row + span.num_tokens))
        self._rows = [(adapters[index], _selection(chosen)) for index, chosen in rows.items()]

    def add(self, layer: int, kind: ProductKind, x: torch.Tensor, y: torch.Tensor) -> None:
        """Add to `y` (rows, out), which a product of `layer` has made of `x` (rows, in), what adapters add."""
        for adapter, rows in self._rows:
            parts = adapter.layers[layer].get(kind, ())
            if parts:
                adapted = x[rows]
                for part in parts:
                    y[rows, part.outputs] += adapted @ part.a.T @ part.b.T


def _selection(rows: list[int]) -> slice | torch.Tensor:
    """What selects `rows`, which ascend: neighbours need not be gathered."""
    whole = slice(rows[0], rows[-1] + 1)
    return whole if whole.stop - whole.start == len(rows) else torch.tensor(rows)
