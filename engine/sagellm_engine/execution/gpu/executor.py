"""`GpuExecutor`: a decoder on one GPU.

A step is launched and collected. `launch` builds the step's inputs in pinned memory, sends them with one copy,
and starts the kernels, a CUDA graph of them where all rows decode; it never waits for the device. `Step.tokens`
waits, once, for the drawn tokens. Between the two the host is free to do something else: to hand out the tokens
of the step before, and even to launch the next step, whose rows may name tokens that only the device knows yet
(`awaited`).
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from sagellm_engine.execution.executor import Scores
from sagellm_engine.execution.row_sampling import RowSampling
from sagellm_engine.execution.span import Span
from sagellm_engine.kernels.sampling import sample
from sagellm_engine.lora import Adapter
from sagellm_engine.models.decoder import Decoder
from sagellm_schemas import ModelLoadError

from .batch import Batch
from .decode_graphs import DecodeGraphs
from .forward_pass import ForwardPass
from .kv_cache import KvCache, cache_dtype
from .product import GpuPacker, GpuProduct
from .staging import Staging, fill
from .step import Step

_SAMPLING = ("temperatures", "top_k", "top_p", "min_p", "uniforms")


def awaited(place: int) -> int:
    """Stands for the token that the step before draws for its wanted row number `place`."""
    return -1 - place


class GpuExecutor:
    """Owns weights and KV cache, and runs steps; one thread uses it."""

    def __init__(
        self,
        decoder: Decoder[GpuProduct, torch.Tensor],
        packer: GpuPacker,
        num_blocks: int,
        block_size: int,
        *,
        max_num_seqs: int,
        max_batched_tokens: int,
        max_model_len: int,
        kv_cache_dtype: str = "auto",
        graphs: bool | None = None,
    ) -> None:
        """`decoder` is of `packer`'s products. Without `graphs` decode steps are launched kernel by kernel."""
        self._device, self._block_size = packer.device, block_size
        self._max_model_len = max_model_len
        specs = [layer.attention for layer in decoder.layers]
        stored = cache_dtype(kv_cache_dtype, packer.dtype)
        self._cache = KvCache(specs, num_blocks, block_size, stored, packer.device)
        self._forward = ForwardPass(decoder, self._cache.layers, packer.dtype, packer.device)
        whole, single, double = torch.int32, torch.float32, torch.float64
        rows, seqs = max_batched_tokens, max_num_seqs
        sections = {
            "top_p": (double, rows),
            "uniforms": (double, rows),
            "temperatures": (single, rows),
            "min_p": (single, rows),
            "top_k": (whole, rows),
            "token_ids": (whole, rows),
            "positions": (whole, rows),
            "slots": (whole, rows),
            "logits_rows": (whole, rows),
            "lengths": (whole, seqs),
            "table_starts": (whole, seqs),
            "prompt_starts": (whole, seqs + 1),
            "tables": (whole, seqs * -(-max_model_len // block_size)),
        }
        self._staging = Staging(sections, packer.device)
        on_gpu = packer.device.type == "cuda"
        self._drawn = torch.zeros(rows, dtype=whole, device=packer.device)
        self._host_drawn = [torch.zeros(rows, dtype=whole, pin_memory=on_gpu) for _ in range(2)]
        self._turn = 0
        self._workspace = torch.empty(0)
        self._graphs: DecodeGraphs | None = None
        if on_gpu if graphs is None else graphs:
            self._graphs = DecodeGraphs(lambda size: self._forward(self._decode_batch(size)), max_num_seqs)

    def forward(
        self, token_ids: list[int], positions: list[int], spans: list[Span], logits_rows: list[int]
    ) -> Scores:
        """See `Executor`."""
        step = self.launch(token_ids, positions, spans, logits_rows, RowSampling.greedy(len(logits_rows)))
        return Scores(step.host_scores(), step.tokens())

    @torch.inference_mode()
    def launch(
        self,
        token_ids: list[int],
        positions: list[int],
        spans: list[Span],
        logits_rows: list[int],
        sampling: RowSampling,
    ) -> Step:
        """Start a step as `forward` runs it, and draw a token for each of `logits_rows` as `sampling` says.

        A token id may be `awaited(place)`: what the launch before draws there, known or not.
        """
        num_decodes = _leading_decodes(spans)
        prompts = spans[num_decodes:]
        size = None if prompts or self._graphs is None else self._graphs.size_for(num_decodes)
        self._send(token_ids, positions, spans, num_decodes, logits_rows, sampling, size or len(token_ids))
        device = self._staging.device
        if min(token_ids) < 0:
            ids = device["token_ids"][: len(token_ids)]
            ids.copy_(torch.where(ids < 0, self._drawn[(-1 - ids).clamp_(min=0)], ids))
        wanted = device["logits_rows"][: len(logits_rows)]
        all_wanted = len(logits_rows) == len(token_ids)
        if size is not None and self._graphs is not None:
            scores = self._graphs.run(size)
            scores = scores[: len(token_ids)] if all_wanted else scores[wanted]
        else:
            batch = self._batch(len(token_ids), num_decodes, prompts, None if all_wanted else wanted)
            scores = self._forward(batch)
        return self._draw(scores)

    def adapt(self, adapters: Sequence[Adapter]) -> None:
        """See `Executor`.

        Raises:
            ModelLoadError: always.
        """
        raise ModelLoadError("LoRA adapters do not run on a GPU yet; set device to cpu")

    @torch.inference_mode()
    def clear(self, blocks: list[int]) -> None:
        """See `Executor`."""
        self._cache.clear(blocks)

    @torch.inference_mode()
    def capture_graphs(self, progress: Callable[[int, int], None]) -> None:
        """Capture the graphs of all batch sizes now, and not when first needed; before the first step."""
        if self._graphs is not None:
            self._staging.device["slots"].fill_(-1)
            self._graphs.capture_all(progress)

    def _send(
        self,
        token_ids: list[int],
        positions: list[int],
        spans: list[Span],
        num_decodes: int,
        logits_rows: list[int],
        sampling: RowSampling,
        size: int,
    ) -> None:
        """Bring a step's inputs to the device; rows beyond its own, up to `size`, are kept nowhere."""
        rows, host = len(token_ids), self._staging.begin()
        fill(host["token_ids"], token_ids)
        fill(host["positions"], positions)
        fill(host["logits_rows"], logits_rows)
        fill(host["lengths"], [span.end for span in spans])
        if size > rows:
            for name, nothing in (("token_ids", 0), ("positions", 0), ("slots", -1)):
                host[name][rows:size] = nothing
            host["lengths"][rows:size] = 0
            host["table_starts"][rows:size] = 0
        tables: list[int] = []
        table_starts: list[int] = []
        for span in spans:
            table_starts.append(len(tables))
            tables += span.blocks[: -(-span.end // self._block_size)]
        fill(host["tables"], tables)
        fill(host["table_starts"], table_starts)
        block, offset = np.divmod(host["positions"][:rows], self._block_size)
        firsts = np.repeat(host["table_starts"][: len(spans)], [span.num_tokens for span in spans])
        host["slots"][:rows] = host["tables"][firsts + block] * self._block_size + offset
        starts = [span.row - num_decodes for span in spans[num_decodes:]]
        fill(host["prompt_starts"], [*starts, rows - num_decodes])
        for name in _SAMPLING:
            fill(host[name], getattr(sampling, name))
        self._staging.send(len(tables))

    def _batch(
        self, rows: int, num_decodes: int, prompts: Sequence[Span], logits_rows: torch.Tensor | None
    ) -> Batch:
        device, num_seqs = self._staging.device, num_decodes + len(prompts)
        return Batch(
            token_ids=device["token_ids"][:rows],
            positions=device["positions"][:rows],
            slots=device["slots"][:rows],
            lengths=device["lengths"][:num_seqs],
            table_starts=device["table_starts"][:num_seqs],
            tables=device["tables"],
            prompt_starts=device["prompt_starts"][: len(prompts) + 1],
            num_decodes=num_decodes,
            longest_prompt=max((span.num_tokens for span in prompts), default=0),
            max_tokens=self._max_model_len,
            logits_rows=logits_rows,
        )

    def _decode_batch(self, size: int) -> Batch:
        return self._batch(size, size, [], None)

    def _draw(self, scores: torch.Tensor) -> Step:
        rows, device = len(scores), self._staging.device
        if self._workspace.numel() < 2 * scores.numel():
            self._workspace = torch.empty(2, *scores.shape, device=scores.device)
        if rows:
            self._drawn[:rows] = sample(
                scores,
                device["temperatures"][:rows],
                device["top_k"][:rows],
                device["top_p"][:rows],
                device["min_p"][:rows],
                device["uniforms"][:rows],
                self._workspace,
            )
        self._turn = 1 - self._turn
        host = self._host_drawn[self._turn][:rows]
        host.copy_(self._drawn[:rows], non_blocking=True)
        done = None
        if scores.is_cuda:
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record()
        return Step(scores, host, done)


def _leading_decodes(spans: list[Span]) -> int:
    """How many of the first spans are a single row; later ones of a single row are taken for short prompts."""
    return next((place for place, span in enumerate(spans) if span.num_tokens > 1), len(spans))
