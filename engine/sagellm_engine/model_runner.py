"""`ModelRunner`: plain data in, token ids out."""

from dataclasses import dataclass

import torch

from sagellm_schemas import EngineError

from .engine_config import EngineConfig
from .execution import Scores, Span
from .execution.drawing import DrawnTokens
from .execution.make import make_executor
from .loader import Checkpoint
from .loader.progress import LoadProgress
from .memory import check_context
from .row_draws import row_draws
from .sampler import Sampled, Sampler, takes_best
from .scheduler import Plan
from .sequence import Sequence

_NOT_FINITE = "the model gave scores that are not finite numbers"


@dataclass(frozen=True, slots=True)
class Launched:
    """A step under way: the sequences that get a token, and what it gives for them."""

    finishing: list[Sequence]
    result: Scores | DrawnTokens


class ModelRunner:
    """Runs one model on one device.

    `num_blocks` and `max_model_len` say what its KV cache has room for.
    """

    def __init__(self, config: EngineConfig, checkpoint: Checkpoint, progress: LoadProgress | None = None) -> None:
        """Load the weights, telling `progress` how far it is.

        Raises:
            SettingsError: the context is longer than the model's, or a quantized model is to be quantized.
            ModelLoadError: the weights cannot be read, or the model does something not known here.
            OutOfMemory: weights or KV cache do not fit.
        """
        if config.num_threads is not None:
            torch.set_num_threads(config.num_threads)
        model = checkpoint.config
        check_context(config, model.max_position_embeddings)
        dtype: torch.dtype = getattr(torch, model.dtype if config.dtype == "auto" else config.dtype)
        made = make_executor(config, checkpoint, dtype, progress)
        self.executor, self.num_blocks, self.max_model_len = made.executor, made.num_blocks, made.max_model_len
        self._drawing = made.drawing
        self._sampler = Sampler(checkpoint.eos_token_ids)

    @torch.inference_mode()
    def run(self, plan: Plan) -> dict[Sequence, Sampled | EngineError]:
        """Compute the plan's tokens; the next token of every sequence that has no more left to compute."""
        return self.collect(self.launch(plan))

    @torch.inference_mode()
    def launch(self, plan: Plan) -> Launched:
        """Start a step. On a GPU it runs on while the host does something else, until `collect`."""
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
        draws = None if self._drawing is None else row_draws(finishing)
        if self._drawing is not None and draws is not None:
            return Launched(finishing, self._drawing.launch(token_ids, positions, spans, logits_rows, draws))
        return Launched(finishing, self.executor.forward(token_ids, positions, spans, logits_rows))

    @torch.inference_mode()
    def collect(self, launched: Launched) -> dict[Sequence, Sampled | EngineError]:
        """Wait for a step; the next token of every sequence that has no more left to compute."""
        finishing, result = launched.finishing, launched.result
        if not isinstance(result, Scores):
            return {s: _drawn(token) for s, token in zip(finishing, result.tokens(), strict=True)}
        return self._sample(result, finishing) if finishing else {}

    @torch.inference_mode()
    def clear(self, blocks: list[int]) -> None:
        """Wipe KV blocks that hold what must not reach another sequence, such as NaN."""
        self.executor.clear(blocks)

    def _sample(self, scores: Scores, sequences: list[Sequence]) -> dict[Sequence, Sampled | EngineError]:
        results: dict[Sequence, Sampled | EngineError] = {}
        logits, best = scores.logits, scores.best
        if -1 in best:
            results = {s: EngineError(_NOT_FINITE) for s, token in zip(sequences, best, strict=True) if token < 0}
            healthy = [row for row, token in enumerate(best) if token >= 0]
            logits, best = logits[healthy], [best[row] for row in healthy]
            sequences = [s for s in sequences if s not in results]
        if all(takes_best(s) for s in sequences):
            sampled = [Sampled(token_id) for token_id in best]
        else:
            sampled = self._sampler.sample(logits, sequences)
        return results | dict(zip(sequences, sampled, strict=True))


def _drawn(token_id: int) -> Sampled | EngineError:
    return Sampled(token_id) if token_id >= 0 else EngineError(_NOT_FINITE)
