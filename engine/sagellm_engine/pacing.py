"""How much of a prompt fits into a step beside decodes whose next token is due. Pure: no clock, no tensor.

The time of a step is predicted as `base + tokens + KV tokens read + pairs of tokens that attend`, each with a
coefficient that is fitted to the steps so far. The chunk of a prompt is the largest that lets the step end before
the first of those decodes is due that can still make it.
"""

from collections.abc import Iterable
from math import inf, sqrt

from .least_squares import LeastSquares

LEAST_CHUNK_TOKENS = 16
"""A step with prompts computes at least so much of them, however short the time: every prompt gets on."""

CAUTION = 2.0
RESERVE = 0.05
"""So many times the usual error of prediction is kept free, and such a share of the time: one step that is too
long makes every decode in it late."""

MEMORY = 0.98
"""About the last fifty long steps count."""

REFIT_EVERY = 8
"""Steps."""

GROWTH = 2
"""So many times the largest step that it knows may a step have of prompts: beyond, it would be guessing."""

WARM_UP_STEPS = 3
"""An engine's first steps compile and allocate: they say nothing of the others."""

TOKENS_SCALE, KV_SCALE, PAIRS_SCALE = 1e3, 1e5, 1e6
PRIOR_S = (0.008, 0.03, 0.005, 0.0015)
"""Of a step, of a thousand tokens, of reading a hundred thousand tokens' KV, of a million pairs: what is assumed
before there were steps. An 8B model on one large GPU, roughly."""


class Pacer:
    """Learns what steps take, and gives each step its room. Durations are seconds.

    It learns from steps that compute prompts, and from the first after one of those, which shows what decoding
    takes alone. More of these would tell no more, and would cost time in every step. What a step takes is convex
    in its tokens, and the long steps are those that must not be too long: so a step's weight is the square of its
    duration, compared with the longest of the latest.
    """

    def __init__(self) -> None:
        self._steps = 0
        self._had_prompts = False
        self._longest_s = 0.0
        self._largest_tokens = 0
        self._fit = LeastSquares(PRIOR_S, MEMORY, REFIT_EVERY)
        self.chunk_tokens = 0.0
        """How many prompt tokens a step has room for beside its decodes, averaged over the latest."""

    def room(self, max_tokens: int, decodes: int, kv_tokens: int, slacks_s: Iterable[float]) -> "Room":
        """For a step of at most `max_tokens` with so many decodes, which read the KV of `kv_tokens`.

        `slacks_s` is how long from now the next tokens of decodes are due. What certainly cannot be met, even
        without prompts, is lost and holds nothing up.
        """
        room = Room(self._fit.coefficients, max_tokens - decodes, decodes, kv_tokens)
        alone_s, doubt_s = room.predicted_s, CAUTION * self._fit.error
        slack_s = min((slack_s for slack_s in slacks_s if slack_s > alone_s - doubt_s), default=inf)
        if slack_s < inf:
            room.left_s = slack_s * (1 - RESERVE) - alone_s - doubt_s
            room.left_tokens = min(room.left_tokens, max(LEAST_CHUNK_TOKENS, GROWTH * self._largest_tokens))
        room.chunk_tokens = room.fits(0)
        return room

    @property
    def curious(self) -> bool:
        """Whether the next step is learned from even if it computes no prompt."""
        return self._had_prompts

    def took(self, room: "Room", duration_s: float) -> None:
        """A step has ended: learn how long it took."""
        if not (room.has_prompts or self._had_prompts):
            return
        self._had_prompts = room.has_prompts
        self._steps += 1
        if self._steps > WARM_UP_STEPS:
            weight = (duration_s / max(duration_s, self._longest_s)) ** 2
            believed_s = self._fit.observe(room.features, duration_s, weight)
            self._longest_s = max(believed_s, 0.998 * self._longest_s)
            self._largest_tokens = max(room.tokens, self._largest_tokens)
        self.chunk_tokens += (0.1 if self.chunk_tokens else 1.0) * (room.chunk_tokens - self.chunk_tokens)


class Room:
    """A step while it is filled: what it computes so far, and what still fits. `full` is set when nothing does.

    `chunk_tokens` is how much of a new prompt would have fitted at first, `has_prompts` whether it computes any.
    """

    __slots__ = (
        "_base_s",
        "_kv_s",
        "_pair_s",
        "_token_s",
        "chunk_tokens",
        "full",
        "has_prompts",
        "kv_tokens",
        "left_s",
        "left_tokens",
        "pairs",
        "tokens",
    )

    def __init__(self, coefficients: tuple[float, ...], left_tokens: int, decodes: int, kv_tokens: int) -> None:
        base_s, tokens_s, kv_s, pairs_s = coefficients
        self._base_s = base_s
        self._token_s = tokens_s / TOKENS_SCALE
        self._kv_s = kv_s / KV_SCALE
        self._pair_s = pairs_s / PAIRS_SCALE
        self.left_tokens = left_tokens
        self.left_s = inf
        self.tokens = decodes
        self.kv_tokens = kv_tokens
        self.pairs = 0.0
        self.full = not left_tokens
        self.chunk_tokens = left_tokens
        self.has_prompts = False

    @property
    def features(self) -> tuple[float, float, float, float]:
        """What its duration depends on."""
        return 1.0, self.tokens / TOKENS_SCALE, self.kv_tokens / KV_SCALE, self.pairs / PAIRS_SCALE

    @property
    def predicted_s(self) -> float:
        """How long it will take as it is."""
        return self._base_s + self.tokens * self._token_s + self.kv_tokens * self._kv_s + self.pairs * self._pair_s

    def fits(self, computed: int) -> int:
        """How many tokens of a prompt fit that come after `computed` ones."""
        if self.left_s == inf:
            return self.left_tokens
        left_s = self.left_s - computed * self._kv_s
        if left_s <= 0:
            return 0
        # chunk * token_s + pairs * pair_s <= left_s, where pairs = chunk * (computed + (chunk + 1) / 2)
        token_s = self._token_s + self._pair_s * (computed + 0.5)
        divisor_s = token_s + sqrt(token_s * token_s + 2 * self._pair_s * left_s)
        return min(self.left_tokens, int(2 * left_s / divisor_s)) if divisor_s else self.left_tokens

    def take(self, wanted: int, computed: int) -> int:
        """Give a prompt that lacks `wanted` tokens after `computed` ones as many as fit, perhaps none."""
        chunk = self.fits(computed)
        if chunk < wanted and not self.has_prompts:
            chunk = max(chunk, min(LEAST_CHUNK_TOKENS, self.left_tokens))
        if chunk < wanted:
            self.full = True
        chunk = min(chunk, wanted)
        if chunk:
            before_s = self.predicted_s
            self.has_prompts = True
            self.tokens += chunk
            self.kv_tokens += computed
            self.pairs += chunk * (computed + (chunk + 1) / 2)
            self.left_tokens -= chunk
            self.left_s -= self.predicted_s - before_s
            self.full = self.full or not self.left_tokens
        return chunk

    def decode(self, computed: int) -> None:
        """Take in one more decode, after `computed` tokens, whatever the time."""
        self.tokens += 1
        self.kv_tokens += computed + 1
        self.left_tokens -= 1
        self.full = not self.left_tokens
