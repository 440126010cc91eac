"""What to say when nothing fits: the reason, and what would fit."""

import msgspec

from sagellm_schemas import OutOfMemory

from .candidates import Candidate, Formats, evaluate, possible
from .gpus import Gpu
from .memory import GIB
from .model_shape import ModelShape
from .precision import PRECISIONS, precision
from .smallest import MOST_GPUS, gpus_for_model
from .workload import Workload

SHORTEST_CONTEXT = 256


def refuse(
    shape: ModelShape, gpu: Gpu, gpus: int, workload: Workload, formats: Formats, unfit: list[Candidate]
) -> OutOfMemory:
    """The error for a model of which no candidate fits; `unfit` are all there were."""
    weights_gib = shape.total_params * precision(formats.dtype).weight_bytes / GIB
    what = (
        f"{shape.name} does not fit {gpus} x {gpu.memory_gib:g} GiB: its weights take {weights_gib:.1f} GiB "
        f"in {formats.dtype}"
    )
    best = max(unfit, key=lambda candidate: (candidate.memory.kv_tokens, candidate.memory.kv_bytes))
    advice = _advice(shape, gpu, gpus, workload, formats, best)
    return OutOfMemory(f"{what}; at best ({best.layout}) one GPU {best.unfit}. {advice}")


def _advice(shape: ModelShape, gpu: Gpu, gpus: int, workload: Workload, formats: Formats, best: Candidate) -> str:
    would: list[str] = []
    enough = gpus_for_model(shape, gpu, workload, formats)
    if enough is not None:
        would.append(f"--gpus {enough}")
    dtype = next(
        (d for d in _smaller(formats.dtype) if _fits(shape, gpu, gpus, workload, Formats(d, formats.kv_dtype))),
        None,
    )
    if dtype is not None:
        would.append(f"--dtype {dtype}")
    if formats.kv_dtype != "fp8" and _fits(shape, gpu, gpus, workload, Formats(formats.dtype, "fp8")):
        would.append("--kv-dtype fp8")
    context = best.memory.kv_tokens
    if context >= max(SHORTEST_CONTEXT, workload.request_tokens):
        would.append(f"--context {context}")
    elif context >= SHORTEST_CONTEXT:
        would.append(f"--context {context} with shorter requests")
    if would:
        return f"What would fit: {', or '.join(would)}."
    return f"Not even {MOST_GPUS} of these GPUs or int4 weights would help; GPUs with more memory would."


def _smaller(dtype: str) -> list[str]:
    """Formats with smaller weights than `dtype`, the largest first."""
    size = PRECISIONS[dtype].weight_bytes
    return [name for name in ("bfloat16", "fp8", "int4") if PRECISIONS[name].weight_bytes < size]


def _fits(shape: ModelShape, gpu: Gpu, gpus: int, workload: Workload, formats: Formats) -> bool:
    return any(
        evaluate(shape, msgspec.structs.replace(layout, dp=1), gpu, workload, formats).forecast is not None
        for layout in possible(shape, gpu, gpus)
    )
