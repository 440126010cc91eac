"""The contract between a model's weights, the runner and the device that computes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch

from sagellm_engine.lora import Adapter
from sagellm_engine.weights import Weight

from .span import Span

P_co = TypeVar("P_co", covariant=True)
E_co = TypeVar("E_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Scores:
    """What a step gives for the rows that were asked for.

    `logits` (rows, vocabulary), float32 on CPU, are valid until the executor's next step. `best` has each row's
    token with the highest score, or -1 where a score is not a finite number.
    """

    logits: torch.Tensor
    best: list[int]


class Packer(Protocol[P_co, E_co]):
    """Makes what a device multiplies with, one product at a time, so that little is in memory twice."""

    def product(self, parts: list[Weight], bias: torch.Tensor | None) -> P_co:
        """The product with `parts`, stacked along `out`, which may be views of a file; `bias` is (out) float32."""
        ...

    def embedding(self, weight: Weight) -> E_co:
        """The table (vocabulary, hidden_size) as the executor looks rows up; a copy.

        Where the output layer shares it, `product` is asked for the same `weight` next.
        """
        ...


class Executor(Protocol):
    """Owns weights and KV cache on one device, and runs steps there."""

    def forward(
        self, token_ids: list[int], positions: list[int], spans: list[Span], logits_rows: list[int]
    ) -> Scores:
        """Run one step; keys and values of its rows go to the cache.

        `token_ids` and `positions` have one entry a row; `spans` say in order, without gaps, which sequence the
        rows belong to. Returns the scores of what follows each of `logits_rows`, which ascend.
        """
        ...

    def adapt(self, adapters: Sequence[Adapter]) -> None:
        """From the next step on `Span.adapter` is an index into `adapters`, which fit the model.

        Rows without an adapter are computed as if there were none.

        Raises:
            ModelLoadError: one changes what this model does not have.
        """
        ...

    def clear(self, blocks: list[int]) -> None:
        """Overwrite the keys and values in `blocks` with zeros."""
        ...
