"""Random shapes and tensors of one case, and when two results count as equal."""

import random
from dataclasses import dataclass, field

import torch

from sagellm_engine.kernels.paged_attention_reference import PagedCache

FP8 = torch.float8_e4m3fn
FLOATS = (torch.float32, torch.bfloat16, torch.float16)


@dataclass
class Draws:
    """The choices of case number `seed`; with `large`, shapes that keep a GPU busy."""

    seed: int
    device: torch.device
    large: bool = False
    pick: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.pick = random.Random(self.seed)
        self._generator = torch.Generator().manual_seed(self.seed)

    def size(self, smallest: int, largest: int, large: int) -> int:
        """A size from `smallest` on, to `largest` or, in large cases, to `large`."""
        return self.pick.randint(smallest, large if self.large else largest)

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Standard normal numbers."""
        return torch.randn(shape, generator=self._generator).to(dtype).to(self.device)

    def uniform(self, *shape: int) -> torch.Tensor:
        """float64 numbers in [0, 1)."""
        return torch.rand(shape, generator=self._generator, dtype=torch.float64).to(self.device)

    def ints(self, values: list[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32, device=self.device)

    def strided(self, tensor: torch.Tensor) -> torch.Tensor:
        """The same rows, but part of wider ones now and then, as q is of qkv."""
        if self.pick.random() < 0.5:
            return tensor
        wider = torch.full((tensor.shape[0], 2, *tensor.shape[1:]), torch.nan, device=self.device)
        wider = wider.to(tensor.dtype)
        wider[:, 1] = tensor
        return wider[:, 1]

    def cache(self, num_blocks: int, kv_heads: int, block_size: int, head_dim: int) -> PagedCache:
        """A cache full of numbers, of any type; in fp8 with a scale for each head."""
        dtype = self.pick.choice((*FLOATS, FP8))
        # Keys and values side by side in one tensor, in either order of head and token.
        kv = self.normal(num_blocks, 2, kv_heads, block_size, head_dim)
        if self.pick.random() < 0.3:
            kv = kv.transpose(2, 3).contiguous().transpose(2, 3)
        keys, values = kv.to(dtype).unbind(1)
        if dtype is not FP8:
            return PagedCache(keys, values)
        scales = (self.uniform(2, kv_heads) + 0.5).float()
        if self.pick.random() < 0.5:  # one for all heads
            scales = scales[:, :1].expand(2, kv_heads).contiguous()
        return PagedCache(keys, values, scales[0], scales[1])

    def tables(self, lengths: list[int], block_size: int) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Shuffled block ids for sequences of `lengths`, nonsense between; where each begins; how many blocks."""
        needed = [-(-length // block_size) for length in lengths]
        total = sum(needed) + self.pick.randint(1, 4)
        ids = list(range(total))
        self.pick.shuffle(ids)
        flat, starts = [], []
        for count in needed:
            flat += [2**30] * self.pick.randint(0, 2)
            starts.append(len(flat))
            flat += [ids.pop() for _ in range(count)]
        return self.ints([*flat, 2**30]), self.ints(starts), total


def assert_close(actual: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype, factor: float = 1.0) -> None:
    """Equal within what arithmetic on `dtype` loses: 2e-5 in float32, 2^-9 in float16, 2^-6 in bfloat16."""
    tolerance = factor * {torch.float32: 2e-5, torch.float16: 2.0**-9, torch.bfloat16: 2.0**-6}[dtype]
    torch.testing.assert_close(actual.float(), expected.float(), atol=tolerance, rtol=tolerance)
