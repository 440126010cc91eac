"""Attention in PyTorch: gather a sequence's blocks side by side, then attend to them.

The cache of a layer is (blocks, 2, kv_heads, block_size, head_dim) float32, keys before values. What is gathered
is ordered by sequence, keys or values, and head, so every head's tokens lie side by side. Sequences that decode
are attended to together, padded to the longest of their group; query heads that share a KV head stand in for
queries of it, so keys and values are not repeated.
"""

from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F

from sagellm_engine.models.decoder import AttentionSpec

from .span import Span

_GATHER_BYTES = 16 << 20
"""Largest gathered group of more than one sequence: what was gathered should still be in the CPU's cache."""

_GROUP_COST_TOKENS = 256
"""A further group costs about as much time as attending to so many tokens more."""


class TorchAttention:
    """The KV cache and its attention."""

    def __init__(self, specs: list[AttentionSpec], num_blocks: int, block_size: int) -> None:
        """`specs` has one entry a layer; all agree in the numbers of heads and their size."""
        self.specs = specs
        first = specs[0]
        self.num_heads, self.num_kv_heads = first.num_heads, first.num_kv_heads
        self.head_dim, self.block_size = first.head_dim, block_size
        self.token_bytes = 2 * first.num_kv_heads * first.head_dim * 4
        # Zeros, not garbage: padding is masked, but a masked NaN is still NaN. NumPy's, because torch writes its
        # zeros: here pages are taken from the system when they are first written, and starting costs nothing.
        shape = (len(specs), num_blocks, 2, first.num_kv_heads, block_size, first.head_dim)
        self.cache = torch.from_numpy(np.zeros(shape, dtype=np.float32))
        self._gathered = torch.empty(0)

    def begin_step(self, spans: list[Span]) -> "TorchStep":
        """Prepare a step whose rows are those of `spans`, in order, without gaps."""
        return TorchStep(self, spans)

    def clear(self, blocks: list[int]) -> None:
        """Overwrite the content of `blocks` with zeros."""
        self.cache[:, blocks] = 0

    def write(self, layer: int, rows: torch.Tensor, kv: torch.Tensor) -> None:
        """Keep `kv` (…, head_dim) in the `rows` of the layer's cache; see `cache_rows`."""
        self.cache[layer].view(-1, self.head_dim).index_copy_(0, rows, kv.reshape(-1, self.head_dim))

    def gather(self, layer: int, pieces: torch.Tensor) -> torch.Tensor:
        """The chosen `pieces` of the layer's cache, as (pieces, values); valid until the next call."""
        cache = self.cache[layer].view(-1, self.block_size * self.head_dim)
        size = len(pieces) * cache.shape[1]
        if self._gathered.numel() < size:
            self._gathered = torch.empty(size)
        return torch.index_select(cache, 0, pieces, out=self._gathered[:size].view(len(pieces), -1))

    def pieces(self, tables: torch.Tensor) -> torch.Tensor:
        """Where the blocks of `tables` (sequences, blocks) are in the cache, in the order of what is gathered."""
        heads = torch.arange(2 * self.num_kv_heads).view(1, -1, 1)
        return (tables.unsqueeze(1) * (2 * self.num_kv_heads) + heads).flatten()

    def cache_rows(self, spans: list[Span]) -> torch.Tensor:
        """Where the tokens of `spans` go, keys and values of every head: row numbers of the layer's cache."""
        size = self.block_size
        places = [(span.blocks[at // size], at % size) for span in spans for at in range(span.start, span.end)]
        blocks, offsets = torch.tensor(places).unsqueeze(1).unbind(-1)
        heads = torch.arange(2 * self.num_kv_heads)
        return ((blocks * (2 * self.num_kv_heads) + heads) * size + offsets).flatten()


class TorchStep:
    """One step: what to write, groups of decoding rows, and prompts one by one."""

    def __init__(self, owner: TorchAttention, spans: list[Span]) -> None:
        self._owner = owner
        self._cache_rows = owner.cache_rows(spans)
        decodes = [span for span in spans if span.num_tokens == 1]
        self._groups = [_Group(owner, group) for group in group_by_length(decodes, owner.token_bytes)]
        self._prompts = [_Prompt(owner, span) for span in spans if span.num_tokens > 1]

    def __call__(self, layer: int, qkv: torch.Tensor) -> torch.Tensor:
        """Write the rows' keys and values to the cache, and attend.

        `qkv` is (rows, (heads + 2 · kv_heads) · head_dim), already rotated; the result is (rows, heads ·
        head_dim).
        """
        owner = self._owner
        rows, width = len(qkv), owner.num_heads * owner.head_dim
        kv = qkv[:, width:].view(rows, 2, owner.num_kv_heads, owner.head_dim)
        owner.write(layer, self._cache_rows, kv)
        q = qkv[:, :width].view(rows, owner.num_kv_heads, -1, owner.head_dim)
        out = torch.empty(rows, width)
        by_head = out.view(rows, owner.num_kv_heads, -1, owner.head_dim)
        for group in self._groups:
            group.attend(layer, q, by_head)
        for prompt in self._prompts:
            prompt.attend(layer, q, kv, by_head)
        return out


class _Group:
    """Decoding rows attended to in one call."""

    def __init__(self, owner: TorchAttention, spans: list[Span]) -> None:
        self._owner = owner
        self._size = len(spans)
        self._longest = max(span.end for span in spans)
        num_blocks = -(-self._longest // owner.block_size)
        tables = []
        for span in spans:
            used = span.blocks[:num_blocks]
            # Pad with a block of the same sequence: another's might hold anything.
            tables.append(used + used[:1] * (num_blocks - len(used)))
        self._pieces = owner.pieces(torch.tensor(tables))
        rows = [span.row for span in spans]
        in_order = all(b == a + 1 for a, b in pairwise(rows))
        self._rows = slice(rows[0], rows[-1] + 1) if in_order else torch.tensor(rows)
        self._ends = torch.tensor([span.end for span in spans]).unsqueeze(1)
        self._even = all(span.end == self._longest for span in spans)
        self._masks: dict[int | None, torch.Tensor | None] = {}

    def attend(self, layer: int, q: torch.Tensor, out: torch.Tensor) -> None:
        owner = self._owner
        kv = owner.gather(layer, self._pieces).view(self._size, 2, owner.num_kv_heads, -1, owner.head_dim)
        keys, values = kv[:, :, :, : self._longest].unbind(1)
        spec = owner.specs[layer]
        out[self._rows] = attend(q[self._rows], keys, values, self._mask(spec.window), spec)

    def _mask(self, window: int | None) -> torch.Tensor | None:
        """(sequences, 1, 1, tokens), False where a sequence's row does not look; None if it looks at all."""
        if window not in self._masks:
            places = torch.arange(self._longest)
            seen = places < self._ends
            if window is not None:
                seen &= places >= self._ends - window
            whole = self._even and (window is None or self._longest <= window)
            self._masks[window] = None if whole else seen.view(self._size, 1, 1, -1)
        return self._masks[window]


class _Prompt:
    """A prompt, or a chunk of one."""

    def __init__(self, owner: TorchAttention, span: Span) -> None:
        self._owner = owner
        self._rows = slice(span.row, span.row + span.num_tokens)
        self._end = span.end
        self._start = span.start
        self._pieces: torch.Tensor | None = None
        self._masks: dict[int | None, torch.Tensor] = {}
        if span.start:
            self._pieces = owner.pieces(torch.tensor([span.blocks[: -(-span.end // owner.block_size)]]))

    def attend(self, layer: int, q: torch.Tensor, kv: torch.Tensor, out: torch.Tensor) -> None:
        owner = self._owner
        if self._pieces is None:
            context = kv[self._rows].permute(1, 2, 0, 3)
        else:
            gathered = owner.gather(layer, self._pieces).view(2, owner.num_kv_heads, -1, owner.head_dim)
            context = gathered[:, :, : self._end]
        queries = q[self._rows].permute(1, 2, 0, 3)  # KV heads take the place of the batch
        keys, values = context.unsqueeze(2).expand(-1, -1, queries.shape[1], -1, -1)
        spec = owner.specs[layer]
        attended = attend(queries, keys, values, self._mask(spec.window), spec)
        out[self._rows] = attended.permute(2, 0, 1, 3)

    def _mask(self, window: int | None) -> torch.Tensor:
        """(tokens of the span, tokens up to its end), True where a row looks."""
        if window not in self._masks:
            mask = torch.ones(self._end - self._start, self._end, dtype=torch.bool).tril_(self._start)
            if window is not None:
                mask = mask.triu_(self._start - window + 1)
            self._masks[window] = mask
        return self._masks[window]


def attend(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None, spec: AttentionSpec
) -> torch.Tensor:
    """softmax(softcap(q · k · scale)) · v over the last two dimensions, which are tokens and head_dim."""
    if spec.softcap is None:
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=spec.scale)
    scores = queries @ keys.transpose(-1, -2) * spec.scale
    scores = scores.div_(spec.softcap).tanh_().mul_(spec.softcap)
    if mask is not None:
        scores = scores.masked_fill_(~mask, -torch.inf)
    return scores.softmax(-1) @ values


def group_by_length(spans: list[Span], token_bytes: int) -> list[list[Span]]:
    """Groups of about equal length, so that little is padded, and none larger than the CPU's cache."""
    groups: list[list[Span]] = []
    longest = padding = 0
    for span in sorted(spans, key=lambda s: -s.end):
        padding += longest - span.end
        full = groups and (len(groups[-1]) + 1) * longest * token_bytes > _GATHER_BYTES
        if not groups or full or padding > _GROUP_COST_TOKENS:
            groups.append([])
            longest, padding = span.end, 0
        groups[-1].append(span)
    return groups
