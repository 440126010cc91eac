"""Small whole numbers packed into 32-bit ones, as checkpoints store them.

In numpy, for the reason given in `gguf_quantized.py`.
"""

import numpy as np
import torch
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

FLOATS = ("F16", "BF16", "F32")
"""What scales may be stored in."""


def unpack(packed: NDArray[np.int32], bits: int) -> Bytes:
    """The numbers in `packed` (rows, columns), lowest bits first: (rows, columns * 32 / bits), for 4 or 8 bits."""
    data = np.ascontiguousarray(packed).astype("<i4", copy=False).view(np.uint8)
    if bits == 8:
        return data
    values = np.empty((*data.shape, 2), np.uint8)
    np.bitwise_and(data, 15, out=values[..., 0])
    np.right_shift(data, 4, out=values[..., 1])
    return values.reshape(len(data), -1)


def integers(tensor: torch.Tensor) -> NDArray[np.int32]:
    """An I32 tensor in numpy."""
    return tensor.numpy()


def scales(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of scales as GroupQuantized has them."""
    return tensor.to(torch.float32).contiguous()


def minimums(scales: torch.Tensor, zeros: Bytes) -> torch.Tensor:
    """scale * (value - zero) written as scale * value + minimum; exact for scales of 16 bits."""
    return scales * torch.from_numpy(zeros.astype(np.float32)).neg_()
