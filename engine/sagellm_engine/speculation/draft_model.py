"""A small model that guesses what a large one will say (Leviathan et al., 2023; Chen et al., 2023)."""

from dataclasses import dataclass, field

import torch

from sagellm_engine.execution import Executor, Span
from sagellm_engine.sequence import Sequence

from .draft_progress import DraftProgress, Progress
from .proposer import Outlook

CATCH_UP_TOKENS = 256
"""So many tokens that it has not seen does it compute before a step, at most, so no step waits long for it."""


@dataclass(slots=True)
class _Rows:
    """Rows of one step of the draft model."""

    token_ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    logits_rows: list[int] = field(default_factory=list)

    def add(self, token_ids: list[int], start: int, blocks: list[int], *, scored: bool) -> None:
        """Tokens of one sequence from position `start` on; with `scored` what follows the last is asked for."""
        self.spans.append(Span(len(self.token_ids), len(token_ids), start, blocks))
        self.token_ids += token_ids
        self.positions += range(start, start + len(token_ids))
        if scored:
            self.logits_rows.append(len(self.token_ids) - 1)


class DraftModel:
    """A `Proposer`. It always guesses the likeliest token, whatever the sequence's sampling.

    What it has not computed of a sequence it computes when it is first asked for a guess, in chunks.
    """

    def __init__(
        self,
        executor: Executor,
        *,
        num_blocks: int,
        block_size: int,
        max_model_len: int,
        vocab_sizes: tuple[int, int],
    ) -> None:
        """`executor` has a KV cache of the same number of blocks as the large model's.

        `vocab_sizes` are rows of scores, padding included, of the draft model and of the large one.
        """
        self._executor = executor
        self._progress = DraftProgress(num_blocks, block_size)
        self._max_model_len = max_model_len
        self._last_token_id = vocab_sizes[0] - 1
        self._guessable = min(vocab_sizes)

    def look(self, sequence: Sequence, most: int) -> Outlook | None:
        """As many as its own context has room for; see `Proposer`."""
        most = min(most, self._max_model_len - len(sequence.token_ids))
        return Outlook(most) if most > 0 else None

    @torch.inference_mode()
    def propose(self, room: dict[Sequence, int]) -> dict[Sequence, list[int]]:
        """One step for what it lacks, then one for each further guess; see `Proposer`."""
        known = {sequence: self._progress.of(sequence) for sequence in room}
        drafts = self._first_guesses(room, known)
        for done in range(1, max((room[s] for s in drafts), default=0)):
            going_on = [s for s in drafts if room[s] > done]
            rows = _Rows()
            for sequence in going_on:
                rows.add(drafts[sequence][-1:], len(sequence.token_ids) + done - 1, sequence.blocks, scored=True)
            for sequence, guess in zip(going_on, self._guess(rows), strict=True):
                drafts[sequence].append(guess)
        for sequence, guesses in drafts.items():
            known[sequence].guessed = guesses[:-1]
        return drafts

    def forget(self, sequence: Sequence) -> None:
        """See `Proposer`."""
        self._progress.forget(sequence)

    def _first_guesses(
        self, room: dict[Sequence, int], known: dict[Sequence, Progress]
    ) -> dict[Sequence, list[int]]:
        """Compute what is lacking; one guess for each sequence of which nothing is lacking any more."""
        lacking = {s: len(s.token_ids) - progress.computed for s, progress in known.items()}
        rows = _Rows()
        ready: list[Sequence] = []
        left = CATCH_UP_TOKENS
        for sequence in sorted(room, key=lambda s: lacking[s]):
            count = min(lacking[sequence], left)
            if not count:
                break
            left -= count
            progress, complete = known[sequence], count == lacking[sequence]
            self._progress.writes(progress, count + (room[sequence] - 1 if complete else 0))
            start = progress.computed
            # A large model's vocabulary may have more padding: any token will do for one that does not occur.
            tokens = [min(token_id, self._last_token_id) for token_id in sequence.token_ids[start : start + count]]
            rows.add(tokens, start, sequence.blocks, scored=complete)
            progress.computed += count
            if complete:
                ready.append(sequence)
        return {s: [guess] for s, guess in zip(ready, self._guess(rows), strict=True)}

    def _guess(self, rows: _Rows) -> list[int]:
        best = self._executor.forward(rows.token_ids, rows.positions, rows.spans, rows.logits_rows).best
        # Padding of a vocabulary is never the best, and if it is, or nothing is, any guess will do.
        return [token_id if 0 <= token_id < self._guessable else 0 for token_id in best]
