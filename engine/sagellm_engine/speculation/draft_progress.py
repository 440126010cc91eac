"""How much of each sequence a draft model has computed. Its KV cache has the same block tables as the model's."""

from dataclasses import dataclass, field

from sagellm_engine.sequence import Sequence


@dataclass(slots=True)
class Progress:
    """The draft model's keys and values of the first `computed` tokens are in `blocks`, then those of `guessed`.

    `blocks` is the sequence's own list, which is another one when the sequence was preempted and came back.
    """

    blocks: list[int]
    computed: int
    marked: int
    """Leading blocks that others can find."""
    guessed: list[int] = field(default_factory=list)


class DraftProgress:
    """Knows by their prefix hashes which full blocks the draft model has computed, so that it shares them, too.

    A block's hash stands for all tokens up to its end. What the large model has computed says nothing here: the
    draft model looks at a sequence only when it is asked for a guess.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self._block_size = block_size
        self._holds: list[bytes | None] = [None] * num_blocks
        self._progress: dict[Sequence, Progress] = {}

    def of(self, sequence: Sequence) -> Progress:
        """As things stand now: what was guessed wrong counts as not computed, and so does the last token."""
        progress = self._progress.get(sequence)
        if progress is None or progress.blocks is not sequence.blocks:
            found = self._found(sequence)
            progress = Progress(sequence.blocks, found * self._block_size, found)
            self._progress[sequence] = progress
        for token_id in progress.guessed:
            if progress.computed >= len(sequence.token_ids) or sequence.token_ids[progress.computed] != token_id:
                break
            progress.computed += 1
        progress.guessed = []
        progress.computed = min(progress.computed, len(sequence.token_ids) - 1)
        self._mark(sequence, progress)
        return progress

    def writes(self, progress: Progress, num_tokens: int) -> None:
        """So many positions after those computed are about to be overwritten."""
        start, end = progress.computed, progress.computed + num_tokens
        for block in progress.blocks[start // self._block_size : -(-end // self._block_size)]:
            self._holds[block] = None

    def forget(self, sequence: Sequence) -> None:
        """The sequence is about to end. What its blocks hold can be found by others, if they are its own still."""
        progress = self._progress.pop(sequence, None)
        if progress is not None and progress.blocks is sequence.blocks:
            self._mark(sequence, progress)

    def _mark(self, sequence: Sequence, progress: Progress) -> None:
        """Let others find the full blocks whose hashes are known."""
        full = min(progress.computed // self._block_size, len(sequence.block_hashes))
        for index in range(progress.marked, full):
            self._holds[progress.blocks[index]] = sequence.block_hashes[index]
        progress.marked = max(progress.marked, full)

    def _found(self, sequence: Sequence) -> int:
        """Leading blocks that hold this sequence's tokens already."""
        found = 0
        for block, name in zip(sequence.blocks, sequence.block_hashes, strict=False):
            if self._holds[block] != name:
                break
            found += 1
        return found
