"""Attention over a paged KV cache in plain PyTorch: what both attention kernels are held against."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class PagedCache:
    """The keys and values of one layer.

    `keys` and `values` are (blocks, kv_heads, block_size, head_dim) with any strides but the last, which is 1, in
    float32, bfloat16, float16 or float8_e4m3fn. In fp8 they are to be multiplied by `key_scale` and `value_scale`,
    float32 (kv_heads,).
    """

    keys: torch.Tensor
    values: torch.Tensor
    key_scale: torch.Tensor | None = None
    value_scale: torch.Tensor | None = None

    @property
    def block_size(self) -> int:
        return self.keys.shape[2]


def gather(cache: PagedCache, table: torch.Tensor, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of the first `length` tokens in the blocks of `table`, each (kv_heads, length, head_dim)."""
    blocks = table[: -(-length // cache.block_size)].long()
    gathered = []
    for tensor, scale in ((cache.keys, cache.key_scale), (cache.values, cache.value_scale)):
        # index_select, because PyTorch does not index fp8 on every device.
        rows = torch.stack([tensor[int(block)].float() for block in blocks])
        tokens = rows.transpose(0, 1).flatten(1, 2)[:, :length]
        gathered.append(tokens if scale is None else tokens * scale.view(-1, 1, 1))
    return gathered[0], gathered[1]


def attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    *,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
) -> torch.Tensor:
    """Causal attention of the last rows of a sequence.

    `query` (rows, heads, head_dim) are the last `rows` positions of the tokens of `keys` and `values` (kv_heads,
    tokens, head_dim). A row sees at most the last `window` tokens, itself included; 0 is all of them. float32.
    """
    rows, heads, _ = query.shape
    kv_heads, tokens, _ = keys.shape
    keys, values = (t.repeat_interleave(heads // kv_heads, 0) for t in (keys, values))
    scores = torch.einsum("rhd,htd->hrt", query.float(), keys) * scale
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    position = torch.arange(tokens - rows, tokens, device=query.device).unsqueeze(1)
    token = torch.arange(tokens, device=query.device)
    hidden = token > position
    if window:
        hidden = hidden | (token <= position - window)
    return torch.einsum("hrt,htd->rhd", scores.masked_fill(hidden, -torch.inf).softmax(-1), values)
