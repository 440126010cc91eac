"""Which of the guessed tokens stay, so that nothing changes but the speed.

A step scores a sequence's latest token and its drafts in consecutive rows, and the sampler draws a token from
every row as if all drafts before it were right: with the penalties of those tokens, and the number that the random
stream has for that position. As long as the draft is the token that was drawn, the next row was scored after the
right tokens, so its own draw holds too. The first token that differs is the model's own, and ends the run.

Every token is thus the very one that is drawn without speculation: same distribution, same seed, same token. (The
rejection sampling of Leviathan et al., 2023, keeps the distribution too, but not the tokens; for a deterministic
guess both accept equally often.)
"""

from dataclasses import dataclass
from typing import Protocol, TypeVar

from sagellm_engine.sequence import Sequence
from sagellm_schemas import SamplingParams


class HasToken(Protocol):
    """What was drawn at one position."""

    @property
    def token_id(self) -> int: ...


T = TypeVar("T", bound=HasToken)


def accept(drafts: list[int], drawn: list[T]) -> list[T]:
    """The run of `drawn` tokens that stay: one more than the leading `drafts` that equal them.

    `drawn` has a token for each draft's position and one for the position after.
    """
    assert len(drawn) == len(drafts) + 1, "a token is drawn for each draft, and one more"
    right = next((i for i, draft in enumerate(drafts) if draft != drawn[i].token_id), len(drafts))
    return drawn[: right + 1]


@dataclass(frozen=True, slots=True)
class Ahead:
    """A sequence as the sampler sees it once the first `count` of its drafts are part of it."""

    sequence: Sequence
    count: int

    @property
    def sampling(self) -> SamplingParams:
        return self.sequence.sampling

    @property
    def seed(self) -> int:
        return self.sequence.seed

    @property
    def num_output(self) -> int:
        return self.sequence.num_output + self.count

    @property
    def token_ids(self) -> list[int]:
        return self.sequence.token_ids + self.sequence.drafts[: self.count]

    @property
    def output_token_ids(self) -> list[int]:
        return self.sequence.output_token_ids + self.sequence.drafts[: self.count]
