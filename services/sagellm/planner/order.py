"""`Order`: what is asked of the planner, as it comes from outside; and `Plan`, the answer to it."""

import msgspec

from sagellm_schemas import InvalidRequest

from .candidates import Formats
from .choose import Choice, Objective, choose
from .find_model import find_model
from .gpus import Gpu, find_gpu
from .model_shape import ModelShape
from .precision import KV_BYTES, precision
from .workload import Workload

DEFAULT_CONTEXT_TOKENS = 8192


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A choice, with everything it was made from."""

    model: str
    shape: ModelShape
    gpu: Gpu
    gpus: int
    workload: Workload
    formats: Formats
    objective: Objective
    choice: Choice


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """Names, numbers and choices as a user gives them; None takes what the model or the GPU say."""

    model: str
    gpus: int = 1
    gpu: str = "h100"
    gpu_memory_gib: float | None = None
    gpus_per_node: int | None = None
    input_tokens: int = 1024
    output_tokens: int = 256
    rate_per_s: float = 0.0
    concurrency: int = 1
    context_tokens: int | None = None
    ttft_slo_ms: float | None = None
    tpot_slo_ms: float | None = None
    dtype: str = "auto"
    kv_dtype: str = "bfloat16"
    max_seqs: int = 256
    step_tokens: int = 8192
    objective: str = "auto"

    def plan(self) -> Plan:
        """Find the model and the GPU, and choose.

        Raises:
            InvalidRequest: a value is out of range or unknown.
            ModelLoadError: there is no such model, or its config cannot be used.
            OutOfMemory: nothing fits; the message says what would.
        """
        shape = find_model(self.model)
        gpu = self._gpu()
        formats = self._formats(shape)
        workload = self._workload(shape)
        choice = choose(shape, gpu, self.gpus, workload, formats, self._objective())
        return Plan(
            model=self.model,
            shape=shape,
            gpu=gpu,
            gpus=self.gpus,
            workload=workload,
            formats=formats,
            objective=self._objective(),
            choice=choice,
        )

    def _gpu(self) -> Gpu:
        gpu = find_gpu(self.gpu)
        if self.gpu_memory_gib is not None:
            gpu = msgspec.structs.replace(gpu, memory_gib=self.gpu_memory_gib)
        if self.gpus_per_node is not None:
            gpu = msgspec.structs.replace(gpu, per_node=self.gpus_per_node)
        return gpu

    def _formats(self, shape: ModelShape) -> Formats:
        dtype = shape.dtype if self.dtype == "auto" else self.dtype
        precision(dtype)
        if self.kv_dtype not in KV_BYTES:
            raise InvalidRequest(
                f"kv_dtype must be one of {', '.join(KV_BYTES)}; got {self.kv_dtype!r}", param="kv_dtype"
            )
        return Formats(dtype, self.kv_dtype)

    def _workload(self, shape: ModelShape) -> Workload:
        mean = self.input_tokens + self.output_tokens
        context = self.context_tokens
        if context is None:
            context = max(min(DEFAULT_CONTEXT_TOKENS, shape.max_positions), mean)
        if context > shape.max_positions:
            raise InvalidRequest(
                f"{shape.name} has a context of {shape.max_positions} tokens, and {context} are asked for",
                param="context",
            )
        return Workload(
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            rate_per_s=self.rate_per_s,
            concurrency=self.concurrency,
            context_tokens=context,
            ttft_slo_ms=self.ttft_slo_ms,
            tpot_slo_ms=self.tpot_slo_ms,
            step_tokens=self.step_tokens,
            max_seqs=self.max_seqs,
        )

    def _objective(self) -> Objective:
        try:
            return Objective(self.objective)
        except ValueError:
            raise InvalidRequest(
                f"objective must be one of {', '.join(Objective)}; got {self.objective!r}", param="objective"
            ) from None
