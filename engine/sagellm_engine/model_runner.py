"""`ModelRunner`: plain data in, token ids out."""

import math

import torch

from sagellm_schemas import EngineError, OutOfMemory

from .config import ModelConfig
from .engine_config import EngineConfig
from .execution import Executor, Span
from .execution.torch_executor import TorchExecutor, TorchPacker
from .loader import Checkpoint
from .loader.expected_tensors import expected_shapes
from .memory import available_bytes, check_weights, kv_blocks
from .models import build
from .models.weights import Weights
from .sampler import Sampled, Sampler
from .scheduler import Plan
from .sequence import Sequence


class ModelRunner:
    """Runs one model on one device.

    `num_blocks` and `max_model_len` say what its KV cache has room for.
    """

    def __init__(self, config: EngineConfig, checkpoint: Checkpoint) -> None:
        """
        Raises:
            ModelLoadError: the weights cannot be read, or the model does something not known here.
            OutOfMemory: weights or KV cache do not fit.
        """
        if config.num_threads is not None:
            torch.set_num_threads(config.num_threads)
        model = checkpoint.config
        dtype: torch.dtype = getattr(torch, model.dtype if config.dtype == "auto" else config.dtype)
        check_weights(
            sum(math.prod(s) for s in expected_shapes(model).values()) * dtype.itemsize, available_bytes()
        )
        weights = Weights(model, checkpoint.tensors(), TorchPacker(dtype))
        self.num_blocks, self.max_model_len = kv_blocks(
            config, kv_token_bytes(model), model.max_position_embeddings, available_bytes()
        )
        decoder = build(model, weights, self.max_model_len)
        try:
            self.executor: Executor = TorchExecutor(decoder, self.num_blocks, config.block_size)
        except RuntimeError as error:  # the allocator's own way to say so
            raise OutOfMemory(f"the KV cache cannot be allocated ({error}); lower kv_cache_bytes") from error
        self._sampler = Sampler(checkpoint.eos_token_ids)

    @torch.inference_mode()
    def run(self, plan: Plan) -> dict[Sequence, Sampled | EngineError]:
        """Compute the plan's tokens; the next token of every sequence that has no more left to compute."""
        sequences = sorted(plan, key=lambda s: plan[s] > 1)
        token_ids: list[int] = []
        positions: list[int] = []
        spans: list[Span] = []
        logits_rows: list[int] = []
        finishing: list[Sequence] = []
        for sequence in sequences:
            start, end = sequence.num_computed, sequence.num_computed + plan[sequence]
            spans.append(Span(len(token_ids), end - start, start, sequence.blocks))
            token_ids += sequence.token_ids[start:end]
            positions += range(start, end)
            if end == len(sequence.token_ids):
                finishing.append(sequence)
                logits_rows.append(len(token_ids) - 1)
        logits = self.executor.forward(token_ids, positions, spans, logits_rows)
        return self._sample(logits, finishing) if finishing else {}

    @torch.inference_mode()
    def clear(self, blocks: list[int]) -> None:
        """Wipe KV blocks that hold what must not reach another sequence, such as NaN."""
        self.executor.clear(blocks)

    def _sample(self, logits: torch.Tensor, sequences: list[Sequence]) -> dict[Sequence, Sampled | EngineError]:
        results: dict[Sequence, Sampled | EngineError] = {}
        healthy = torch.isfinite(logits.sum(-1)).tolist()
        if not all(healthy):
            error = "the model gave scores that are not finite numbers"
            results = {s: EngineError(error) for s, fine in zip(sequences, healthy, strict=True) if not fine}
            logits = logits[healthy]
            sequences = [s for s in sequences if s not in results]
        sampled = self._sampler.sample(logits, sequences) if sequences else []
        return results | dict(zip(sequences, sampled, strict=True))


def kv_token_bytes(config: ModelConfig) -> int:
    """Memory that one token takes in the KV cache, all layers together."""
    return config.num_layers * 2 * config.num_kv_heads * config.head_dim * 4
