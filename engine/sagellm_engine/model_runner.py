"""`ModelRunner`: plain data in, token ids out."""

from collections.abc import Sequence as Items
from dataclasses import dataclass
from itertools import islice

import torch

from sagellm_schemas import EngineError

from .config import ModelConfig
from .engine_config import EngineConfig
from .execution import Scores, Span
from .execution.drawing import DrawnTokens
from .execution.make import make_executor
from .loader import Checkpoint
from .loader.progress import LoadProgress
from .lora import Adapter
from .memory import check_context
from .row_draws import row_draws
from .sampler import Context, Sampled, Sampler, takes_best
from .scheduler import Plan
from .sequence import Sequence
from .speculation import Ahead, accept

_NOT_FINITE = "the model gave scores that are not finite numbers"


@dataclass(frozen=True, slots=True)
class Launched:
    """A step under way: the sequences that get tokens, and what it gives for them."""

    finishing: list[Sequence]
    result: Scores | DrawnTokens


class ModelRunner:
    """Runs one model on one device.

    `num_blocks` and `max_model_len` say what its KV cache has room for.
    """

    def __init__(
        self,
        config: EngineConfig,
        checkpoint: Checkpoint,
        adapters: Items[Adapter] = (),
        progress: LoadProgress | None = None,
        draft: ModelConfig | None = None,
    ) -> None:
        """Load the weights, telling `progress` how far it is, and leave room for as many KV blocks of `draft`.

        Sequences may name any of `adapters`.

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
        made = make_executor(config, checkpoint, dtype, progress, draft)
        self.executor, self.num_blocks, self.max_model_len = made.executor, made.num_blocks, made.max_model_len
        self._drawing = made.drawing
        self._adapters = {adapter.name: index for index, adapter in enumerate(adapters)}
        if adapters:
            self.executor.adapt(adapters)
        self._sampler = Sampler(checkpoint.eos_token_ids)

    @torch.inference_mode()
    def run(self, plan: Plan) -> dict[Sequence, list[Sampled] | EngineError]:
        """Compute the plan's tokens; the next ones of every sequence that has no more left to compute.

        That is one token, and one more for each leading draft that is right.
        """
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
            adapter = None if sequence.adapter is None else self._adapters[sequence.adapter]
            spans.append(Span(len(token_ids), end - start, start, sequence.blocks, adapter))
            token_ids += sequence.token_ids[start:end] + sequence.drafts
            positions += range(start, end)
            if end == len(sequence.token_ids) + len(sequence.drafts):
                finishing.append(sequence)
                logits_rows += range(len(token_ids) - 1 - len(sequence.drafts), len(token_ids))
        if self._drawing is not None:
            draws = row_draws([context for sequence in finishing for context in _contexts(sequence)])
            if draws is not None:
                return Launched(finishing, self._drawing.launch(token_ids, positions, spans, logits_rows, draws))
        return Launched(finishing, self.executor.forward(token_ids, positions, spans, logits_rows))

    @torch.inference_mode()
    def collect(self, launched: Launched) -> dict[Sequence, list[Sampled] | EngineError]:
        """Wait for a step; see `run`."""
        result = launched.result
        if isinstance(result, Scores):
            return self._sample(result, launched.finishing) if launched.finishing else {}
        tokens = iter(result.tokens())
        results: dict[Sequence, list[Sampled] | EngineError] = {}
        for sequence in launched.finishing:
            drawn = list(islice(tokens, 1 + len(sequence.drafts)))
            sampled = [Sampled(token) for token in drawn]
            results[sequence] = EngineError(_NOT_FINITE) if -1 in drawn else accept(sequence.drafts, sampled)
        return results

    @torch.inference_mode()
    def clear(self, blocks: list[int]) -> None:
        """Wipe KV blocks that hold what must not reach another sequence, such as NaN."""
        self.executor.clear(blocks)

    def _sample(self, scores: Scores, sequences: list[Sequence]) -> dict[Sequence, list[Sampled] | EngineError]:
        """Of each sequence what its rows of `scores` give: one, and one for each draft."""
        results: dict[Sequence, list[Sampled] | EngineError] = {}
        contexts: list[Context] = []
        rows: list[int] = []
        end = 0
        for sequence in sequences:
            start, end = end, end + 1 + len(sequence.drafts)
            if -1 in scores.best[start:end]:
                results[sequence] = EngineError(_NOT_FINITE)
            else:
                rows += range(start, end)
                contexts += _contexts(sequence)
        drawn = iter(self._draw(scores, rows, contexts))
        for sequence in sequences:
            if sequence not in results:
                results[sequence] = accept(sequence.drafts, list(islice(drawn, 1 + len(sequence.drafts))))
        return results

    def _draw(self, scores: Scores, rows: list[int], contexts: list[Context]) -> list[Sampled]:
        """The token after each context, from its row."""
        if all(takes_best(context) for context in contexts):
            return [Sampled(scores.best[row]) for row in rows]
        logits = scores.logits if len(rows) == len(scores.best) else scores.logits[rows]
        return self._sampler.sample(logits, contexts)


def _contexts(sequence: Sequence) -> list[Context]:
    """What tokens are drawn after: the sequence, and the sequence with one more of its drafts each."""
    return [sequence, *(Ahead(sequence, count) for count in range(1, 1 + len(sequence.drafts)))]
