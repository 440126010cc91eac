"""`Sequence`: the state of one request inside the engine."""

from enum import IntEnum

from sagellm_schemas import SamplingParams


class Status(IntEnum):
    """Where a sequence is: nothing from FINISHED on is scheduled again."""

    WAITING = 0
    RUNNING = 1
    FINISHED = 2


class Sequence:
    """Prompt and answer of one request, and which KV blocks hold them.

    `token_ids` are the prompt and the answer so far. The keys and values of the first `num_computed` of them are
    in `blocks`. `block_hashes` name the leading full blocks, as far as anyone has asked for them. `token_s` is
    when its latest token was sampled; with a `tbt_slo_s` the next one is due so long after it. `adapter` is the
    LoRA adapter it runs with, if any. `drafts` are what a step under way checks whether they come next.
    """

    __slots__ = (
        "adapter",
        "arrival",
        "block_hashes",
        "blocks",
        "drafts",
        "id",
        "max_tokens",
        "num_cached",
        "num_committed",
        "num_computed",
        "num_prompt",
        "priority",
        "sampling",
        "seed",
        "status",
        "tbt_slo_s",
        "token_ids",
        "token_s",
    )

    def __init__(
        self,
        request_id: str,
        prompt_token_ids: list[int],
        sampling: SamplingParams,
        *,
        max_tokens: int,
        seed: int = 0,
        resume_token_ids: list[int] | None = None,
        priority: int = 2,
        arrival: int = 0,
        tbt_slo_s: float | None = None,
        adapter: str | None = None,
    ) -> None:
        self.id = request_id
        self.token_ids = prompt_token_ids + (resume_token_ids or [])
        self.num_prompt = len(prompt_token_ids)
        self.sampling = sampling
        self.max_tokens = max_tokens
        self.seed = seed
        self.priority = priority
        self.arrival = arrival
        self.tbt_slo_s = tbt_slo_s
        self.adapter = adapter
        self.token_s: float | None = None
        self.status = Status.WAITING
        self.num_computed = 0
        self.num_committed = 0
        """Leading blocks that the prefix cache knows."""
        self.num_cached: int | None = None
        """Tokens found in the prefix cache when the sequence first ran; None before."""
        self.blocks: list[int] = []
        self.block_hashes: list[bytes] = []
        self.drafts: list[int] = []

    @property
    def num_output(self) -> int:
        """Tokens of the answer so far, resumed ones included."""
        return len(self.token_ids) - self.num_prompt

    @property
    def num_uncomputed(self) -> int:
        """Tokens that must go through the model before the next one can be sampled; 1 while decoding."""
        return len(self.token_ids) - self.num_computed

    @property
    def output_token_ids(self) -> list[int]:
        """The answer so far."""
        return self.token_ids[self.num_prompt :]

    @property
    def rank(self) -> tuple[int, int]:
        """Order of service: lower first."""
        return self.priority, self.arrival
