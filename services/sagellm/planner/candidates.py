"""All layouts of a model on so many GPUs, each with its memory and its forecast, or the reason why it is none."""

from collections.abc import Iterator

import msgspec

from .forecast import Forecast, forecast
from .gpus import Gpu
from .layout import Layout, obstacle
from .memory import GIB, Memory, memory
from .model_shape import ModelShape
from .placement import most_replicas
from .step_time import StepTimes
from .workload import Workload

MOST_STAGES = 64


class Formats(msgspec.Struct, frozen=True):
    """Number formats of weights and of the KV cache."""

    dtype: str = "bfloat16"
    kv_dtype: str = "bfloat16"


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A layout and what is predicted of it. `unfit` says what does not fit; then there is no forecast."""

    layout: Layout
    memory: Memory
    forecast: Forecast | None = None
    unfit: str = ""


def evaluate(shape: ModelShape, layout: Layout, gpu: Gpu, workload: Workload, formats: Formats) -> Candidate:
    """Memory and forecast of one layout that the model can be split into."""
    needs = memory(shape, layout, workload, gpu.memory_gib, formats.dtype, formats.kv_dtype)
    if needs.kv_bytes <= 0:
        wanted = needs.usable_bytes - needs.kv_bytes
        unfit = f"needs {wanted / GIB:.1f} GiB before any KV cache, {needs.usable_bytes / GIB:.1f} GiB are usable"
        return Candidate(layout=layout, memory=needs, unfit=unfit)
    if needs.kv_tokens < workload.context_tokens:
        unfit = f"KV cache holds {needs.kv_tokens} tokens, one request may have {workload.context_tokens}"
        return Candidate(layout=layout, memory=needs, unfit=unfit)
    times = StepTimes(shape, layout, gpu, formats.dtype, formats.kv_dtype)
    return Candidate(layout=layout, memory=needs, forecast=forecast(times, layout, workload, needs.kv_tokens))


def layouts(shape: ModelShape, gpu: Gpu, gpus: int) -> Iterator[Layout]:
    """Every replica of at most `gpus` GPUs, as often as they allow; TP never leaves a machine.

    Layouts that the model cannot be split into are among them: see `obstacle`.
    """
    most_ep = shape.experts.count if shape.experts else 1
    for tp in range(1, min(gpus, gpu.per_node) + 1):
        for pp in range(1, min(gpus // tp, MOST_STAGES) + 1):
            for ep in range(1, min(gpus // (tp * pp), most_ep) + 1):
                replica = tp * pp * ep
                yield Layout(tp=tp, pp=pp, ep=ep, dp=most_replicas(gpus, replica, gpu.per_node))


def possible(shape: ModelShape, gpu: Gpu, gpus: int) -> list[Layout]:
    """Those of `layouts` that the model can be split into."""
    return [layout for layout in layouts(shape, gpu, gpus) if obstacle(shape, layout) is None]


def obstacles(shape: ModelShape, gpu: Gpu, gpus: int) -> dict[str, list[Layout]]:
    """The others, by the reason why not; only those with one dimension split: the rest follows."""
    found: dict[str, list[Layout]] = {}
    for layout in layouts(shape, gpu, gpus):
        if [layout.tp, layout.pp, layout.ep].count(1) >= 2:
            reason = obstacle(shape, layout)
            if reason is not None:
                found.setdefault(reason, []).append(layout)
    return found
