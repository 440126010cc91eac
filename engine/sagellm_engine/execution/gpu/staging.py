"""`Staging`: a step's inputs side by side in pinned memory, for one asynchronous copy to the GPU."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

_ALIGNMENT = 16


class Staging:
    """Named arrays, on the host and on the device.

    The device has one copy, at an address that never changes, as CUDA graphs need it. The host has two that take
    turns: while one is still being copied, the next step fills the other.
    """

    def __init__(self, sections: dict[str, tuple[torch.dtype, int]], device: torch.device) -> None:
        """`sections` are names with their type and number of elements; the last one is the longest by far."""
        self._places: dict[str, tuple[int, torch.dtype, int]] = {}
        end = 0
        for name, (dtype, size) in sections.items():
            self._places[name] = (end, dtype, size)
            end += -(-size * dtype.itemsize // _ALIGNMENT) * _ALIGNMENT
        pinned = device.type == "cuda"
        self._device_bytes = torch.zeros(end, dtype=torch.uint8, device=device)
        self._host_bytes = [torch.zeros(end, dtype=torch.uint8, pin_memory=pinned) for _ in range(2)]
        self._copied: list[torch.cuda.Event | None] = [
            torch.cuda.Event() if pinned else None  # type: ignore[no-untyped-call]
            for _ in range(2)
        ]
        self._turn = 0
        self.device: dict[str, torch.Tensor] = self._views(self._device_bytes)
        self._host = [
            {name: view.numpy() for name, view in self._views(tensor).items()} for tensor in self._host_bytes
        ]

    def begin(self) -> dict[str, NDArray[Any]]:
        """The host's arrays, to be filled; waits if they are still being copied from two steps ago."""
        self._turn = 1 - self._turn
        copied = self._copied[self._turn]
        if copied is not None:
            copied.synchronize()
        return self._host[self._turn]

    def send(self, last: int) -> None:
        """Copy what was filled to the device, of the last section its first `last` elements; returns at once."""
        start, dtype, _size = next(reversed(self._places.values()))
        end = start + last * dtype.itemsize
        self._device_bytes[:end].copy_(self._host_bytes[self._turn][:end], non_blocking=True)
        copied = self._copied[self._turn]
        if copied is not None:
            copied.record()

    def _views(self, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        return {
            name: tensor[start : start + size * dtype.itemsize].view(dtype)
            for name, (start, dtype, size) in self._places.items()
        }


def fill(array: NDArray[Any], values: "list[int] | list[float] | NDArray[Any]") -> None:
    """Put `values` at the beginning of `array`."""
    array[: len(values)] = np.asarray(values, dtype=array.dtype)
