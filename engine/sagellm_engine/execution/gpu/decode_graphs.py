"""CUDA graphs of decode steps, one for each size of a ladder of batch sizes.

A decode step is hundreds of short kernels: launched one by one they take longer on the host than on the GPU. A
graph launches them all at once. It is captured when its size is first needed, or all at start; nothing but the
content of static buffers differs between runs.
"""

from collections.abc import Callable

import torch


def ladder(largest: int) -> list[int]:
    """Batch sizes with a graph of their own: 1, 2, 4, every 8th up to 256, every 32nd above, and `largest`."""
    sizes = [1, 2, 4, *range(8, 257, 8), *range(288, largest + 1, 32)]
    return [size for size in sizes if size < largest] + [largest]


class DecodeGraphs:
    """Runs `compute(size)` as a graph; its result is valid until any graph runs again."""

    def __init__(self, compute: Callable[[int], torch.Tensor], largest: int) -> None:
        """`compute` runs a decode step of so many rows on static buffers, and does not wait for the device."""
        self._compute = compute
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, torch.Tensor]] = {}
        self._pool = torch.cuda.graph_pool_handle()
        self.sizes = ladder(largest)

    def size_for(self, rows: int) -> int | None:
        """The smallest size that holds so many rows."""
        return next((size for size in self.sizes if size >= rows), None)

    def run(self, size: int) -> torch.Tensor:
        """The result of a step of `size` rows, of which some may be padding."""
        if size not in self._graphs:
            self._capture(size)
        graph, result = self._graphs[size]
        graph.replay()
        return result

    def capture_all(self, progress: Callable[[int, int], None]) -> None:
        """Capture every size, the largest first so that the others fit into its memory.

        `progress` is told how many of how many are done.
        """
        for done, size in enumerate(reversed(self.sizes), start=1):
            if size not in self._graphs:
                self._capture(size)
            progress(done, len(self.sizes))

    def _capture(self, size: int) -> None:
        # Once without a graph: what is compiled or allocated at first use must not be a part of it. The buffers
        # hold this step's rows, and to write their keys and values twice changes nothing.
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._compute(size)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            result = self._compute(size)
        self._graphs[size] = (graph, result)
