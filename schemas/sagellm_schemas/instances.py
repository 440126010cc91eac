"""What instances say of themselves: models, registration, heartbeats, and the orders they take."""

import msgspec

from .enums import EngineState, InstanceRole
from .work import Ended


class ModelCard(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All that an ingress needs to know of a model; kept in the models bucket under the model's subject token.

    `tokenizer` names an object in the tokenizers bucket, holding a Hugging Face `tokenizer.json`; it is empty
    where the engine tokenizes (a vLLM server). `chat_template` is Jinja source. `max_model_len` counts prompt
    and output tokens.

    A LoRA adapter has a card of its own, under its own name: `parent` is the model that it is an adapter of, which
    is asked for with `InferenceRequest.adapter`. It is empty in a model's card.
    """

    name: str
    max_model_len: int
    tokenizer: str = ""
    chat_template: str = ""
    bos_token: str = ""
    eos_token: str = ""
    eos_token_ids: list[int] = msgspec.field(default_factory=list)
    vocab_size: int = 0
    created: int = 0
    owned_by: str = "sagellm"
    parent: str = ""


class InstanceInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One worker, as registered in the instances bucket; refreshed before the bucket's TTL."""

    instance_id: str
    model: str
    role: InstanceRole = InstanceRole.GENERAL
    engine: str = "sagellm"
    host: str = ""
    max_concurrent_requests: int = 100
    max_batched_tokens: int = 0
    """Tokens of one engine step at most; 0 where that is not known."""
    max_model_len: int = 0
    machine_id: str = ""
    rack_id: str = ""
    price_per_hour: float = 0.0
    started_at: float = 0.0
    server: str = ""
    """The id under which somebody has registered the server that is served here."""
    adapters: list[str] = msgspec.field(default_factory=list)
    """The LoRA adapters that a request can choose here."""


class SpeculationStats(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What came of speculative decoding since the engine's start."""

    drafted_tokens_total: int = 0
    """Tokens that were guessed ahead."""
    accepted_tokens_total: int = 0
    """Of these, how many were right."""

    @property
    def acceptance_rate(self) -> float | None:
        """Share of drafted tokens that were right; None where there were none."""
        return self.accepted_tokens_total / self.drafted_tokens_total if self.drafted_tokens_total else None


class EngineStats(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One engine's counters. Totals grow from the engine's start; the rest is the state now."""

    running: int = 0
    waiting: int = 0
    gpu_utilization: float | None = None
    """Share of time in which the GPUs ran kernels, by their driver, 0 to 1; None where there are none to ask."""
    kv_blocks: int = 0
    kv_blocks_free: int = 0
    steps_total: int = 0
    step_ms: float = 0.0
    """Duration of the latest steps, exponentially averaged."""
    step_ms_total: float = 0.0
    """Time spent in steps; 0 where the engine does not tell."""
    prompt_tokens_total: int = 0
    cached_tokens_total: int = 0
    output_tokens_total: int = 0
    preemptions_total: int = 0
    chunk_tokens: int = 0
    """How many prompt tokens a step has room for beside its decodes, averaged over the latest; 0 where the engine
    does not tell."""
    computed_tokens_total: int = 0
    """Tokens that went through the model, each in its step; 0 where the engine does not tell."""
    speculation: SpeculationStats | None = None
    """None where no tokens are guessed ahead."""


class InstanceStats(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A heartbeat. `running` maps the id of every accepted, unfinished request to its attempt."""

    info: InstanceInfo
    state: EngineState
    running: dict[str, int]
    stats: EngineStats
    sent_at: float = 0.0
    term: int = 0
    """The highest leadership term the instance has seen."""


class Control(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An order to an instance, answered with `InstanceReport`.

    `term` fences older leaders. `drain` stops new work; `preempt` names requests to hand back. `prefixes` asks
    for a full account of the prefix cache. `leave` means: finish what runs, sign off, and stop.
    """

    term: int = 0
    drain: bool = False
    preempt: list[str] = msgspec.field(default_factory=list)
    prefixes: bool = False
    leave: bool = False


class InstanceReport(msgspec.Struct, frozen=True, kw_only=True):
    """Where an instance stands; what it answers to `Control`.

    `ended` are the latest endings, so that one that a scheduler missed (its leader died) is not run again.
    """

    heartbeat: InstanceStats
    ended: list[Ended]


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """Who leads the schedulers, in which term."""

    holder: str
    term: int
