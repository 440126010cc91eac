"""How likely a guess is right, as far as earlier ones tell."""

from dataclasses import dataclass

from sagellm_engine.sequence import Sequence

from .proposer import Outlook

FIRST_WEIGHT = 8.0
"""As so many guesses counts what is assumed of a kind before there was any."""

KIND_WEIGHT = 8.0
"""As so many guesses of a sequence's own counts what is known of its kind from all sequences."""

SEQUENCE_MEMORY = 0.98
"""What a sequence's guesses still count one step later: one that was given up is tried again after a while, for
the text may have become another."""

KIND_MEMORY = 0.995
"""What the guesses of a kind still count one guess later."""


@dataclass(slots=True)
class _Record:
    right: float = 0.0
    guesses: float = 0.0
    step: int = 0

    def add(self, right: int, guesses: int, memory: float) -> None:
        self.right = self.right * memory + right
        self.guesses = self.guesses * memory + guesses


class Chances:
    """The chance that one more draft is right if those before it were, by kind of proposal and by sequence."""

    def __init__(self) -> None:
        self._kinds: dict[int, _Record] = {}
        self._own: dict[Sequence, dict[int, _Record]] = {}

    def chance(self, sequence: Sequence, outlook: Outlook, step: int) -> float:
        """Of a draft for `sequence`, in step number `step`."""
        kind, of_kind = outlook.kind, self._of_kind(outlook)
        own = self._own.get(sequence, {}).get(kind)
        if own is None:
            return of_kind
        memory = SEQUENCE_MEMORY ** (step - own.step)
        return (own.right * memory + KIND_WEIGHT * of_kind) / (own.guesses * memory + KIND_WEIGHT)

    def judged(self, sequence: Sequence, kind: int, step: int, drafted: int, accepted: int) -> None:
        """Of `drafted` tokens the first `accepted` were right; what comes after a wrong one tells nothing."""
        guesses = accepted + (accepted < drafted)
        own = self._own.setdefault(sequence, {}).setdefault(kind, _Record(step=step))
        own.add(accepted, guesses, SEQUENCE_MEMORY ** (step - own.step))
        own.step = step
        self._kinds.setdefault(kind, _Record()).add(accepted, guesses, KIND_MEMORY**guesses)

    def forget(self, sequence: Sequence) -> None:
        """The sequence has ended."""
        self._own.pop(sequence, None)

    def _of_kind(self, outlook: Outlook) -> float:
        known = self._kinds.get(outlook.kind)
        if known is None:
            return outlook.first_chance
        return (known.right + FIRST_WEIGHT * outlook.first_chance) / (known.guesses + FIRST_WEIGHT)
