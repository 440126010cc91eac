"""What is known of the workers: their state, their credits, and what runs where."""

import hashlib
from collections.abc import Iterable
from collections.abc import Set as AbstractSet

from sagellm.scheduler.candidates import Candidates
from sagellm.scheduler.phases import Phase, phases_of
from sagellm.scheduler.prefixes import PrefixIndex
from sagellm_schemas import EngineState, EngineStats, InstanceInfo, InstanceRole, InstanceStats, subjects

STEPS_AHEAD = 2
"""How many steps' worth of prompts an instance is given at a time: what it computes now, and the step after."""

SPARE_KV = 0.1
"""An instance with less than this share of its KV blocks free is cramped."""


class Instance:
    """One worker as its latest heartbeat told it, and the requests that this scheduler has assigned to it.

    `last_turn` is the number of the dispatch that last chose this instance. `suspects` ran there at the latest
    heartbeat without our having sent them, `strays` at two in a row. `heard_s` is on the monotonic clock.
    `seed` is a hash of the id. `ready` means that it may be sent work as long as it has credits, of which
    `capacity` is the number. `watchers` hear of every change of these. `unread_tokens` are those of assigned
    prompts without a first token yet.
    """

    __slots__ = (
        "__weakref__",
        "_assigned",
        "_closed",
        "_info",
        "_state",
        "_stats",
        "_unread",
        "capacity",
        "heard_s",
        "id",
        "last_turn",
        "ready",
        "running",
        "seed",
        "strays",
        "suspects",
        "term",
        "unread_tokens",
        "watchers",
        "work_subject",
    )

    def __init__(self, info: InstanceInfo, state: EngineState, heard_s: float) -> None:
        self.id = info.instance_id
        self.seed = int.from_bytes(hashlib.blake2b(self.id.encode(), digest_size=8).digest(), "little")
        self.work_subject = subjects.work(info.role, info.instance_id)
        self.heard_s = heard_s
        self.term = 0
        self.running: dict[str, int] = {}
        self._stats = EngineStats()
        self.suspects: set[str] = set()
        self.strays: set[str] = set()
        self.last_turn = 0
        self.watchers: list[Candidates] = []
        self._assigned: dict[str, None] = {}
        self._unread: dict[str, int] = {}
        self.unread_tokens = 0
        self._info = info
        self._state = state
        self.capacity = info.max_concurrent_requests
        self._closed = ""
        self.ready = state is EngineState.READY

    @property
    def info(self) -> InstanceInfo:
        """What it said of itself."""
        return self._info

    @info.setter
    def info(self, info: InstanceInfo) -> None:
        self._info = info
        if info.max_concurrent_requests != self.capacity:
            self.capacity = info.max_concurrent_requests
            self._changed()

    @property
    def stats(self) -> EngineStats:
        """The counters of its engine."""
        return self._stats

    @stats.setter
    def stats(self, stats: EngineStats) -> None:
        before, self._stats = (self.has_credit, self.cramped), stats
        if (self.has_credit, self.cramped) != before:
            self._changed()

    @property
    def state(self) -> EngineState:
        """Only READY takes new work."""
        return self._state

    @state.setter
    def state(self, state: EngineState) -> None:
        if state is not self._state:
            self._state = state
            self._open()

    @property
    def closed(self) -> str:
        """An operator's order to send no more work: its reason, or empty."""
        return self._closed

    @closed.setter
    def closed(self, reason: str) -> None:
        if reason != self._closed:
            self._closed = reason
            self._open()

    @property
    def assigned(self) -> AbstractSet[str]:
        """Ids of requests; each holds one of `max_concurrent_requests` credits until its report."""
        return self._assigned.keys()

    @property
    def has_credit(self) -> bool:
        """Whether a request may be assigned now: it is ready, not full, and soon done with the prompts it has.

        Prompts beyond those that fill this step and the next would only wait there, where no policy orders them.
        An instance that does not tell the size of its steps takes as many as it has credits.
        """
        if not self.ready or len(self._assigned) >= self.capacity:
            return False
        return not self.step_tokens or self.unread_tokens < STEPS_AHEAD * self.step_tokens

    @property
    def step_tokens(self) -> int:
        """How many prompt tokens it computes in a step: what its latest ones had room for, else its budget; 0 if
        it tells nothing."""
        return self._stats.chunk_tokens or self._info.max_batched_tokens

    @property
    def cramped(self) -> bool:
        """Whether so little of its KV cache is free that what runs there may soon be preempted."""
        return self._stats.kv_blocks_free < SPARE_KV * self._stats.kv_blocks

    @property
    def load(self) -> float:
        """Share of the credits in use."""
        return len(self._assigned) / max(1, self.capacity)

    def assign(self, request_id: str, turn: int, tokens: int = 0) -> None:
        """Give it a request, with so many prompt tokens to compute, in dispatch number `turn`."""
        self._assigned[request_id] = None
        self.unread_tokens += tokens - self._unread.get(request_id, 0)
        self._unread[request_id] = tokens
        self.last_turn = turn
        self._changed()

    def release(self, request_id: str) -> None:
        """A request no longer holds a credit, if it held one."""
        if request_id in self._assigned:
            del self._assigned[request_id]
            self.unread_tokens -= self._unread.pop(request_id, 0)
            self._changed()

    def started(self, request_id: str) -> None:
        """A request has its first token: its prompt is read."""
        tokens = self._unread.pop(request_id, None)
        if tokens is not None:
            self.unread_tokens -= tokens
            self._changed()

    def reassign(self, request_ids: Iterable[str]) -> None:
        """Let these requests hold credits, and no others."""
        self._assigned = dict.fromkeys(request_ids)
        self._unread.clear()
        self.unread_tokens = 0
        self._changed()

    def _open(self) -> None:
        self.ready = self._state is EngineState.READY and not self._closed
        self._changed()

    def _changed(self) -> None:
        for watcher in self.watchers:
            watcher.update(self)


class Instances:
    """Every known instance, by id, and by model and phase."""

    def __init__(self) -> None:
        self._by_id: dict[str, Instance] = {}
        self._by_model: dict[str, list[Instance]] = {}
        self._candidates: dict[tuple[str, Phase, str | None], Candidates] = {}
        self._prefixes: dict[str, PrefixIndex] = {}

    def all(self) -> list[Instance]:
        """Every known instance; the list is the caller's."""
        return list(self._by_id.values())

    def get(self, instance_id: str) -> Instance | None:
        """The instance of that id, if it is known."""
        return self._by_id.get(instance_id)

    def serving(self, model: str) -> list[Instance]:
        """The instances of a model."""
        return self._by_model.get(model, [])

    def with_credit(self, model: str, phase: Phase = Phase.WHOLE, adapter: str | None = None) -> Candidates:
        """The instances of a model that can take this phase of a request with this adapter, or with none, now;
        always the same, live object."""
        found = self._candidates.get((model, phase, adapter))
        if found is None:
            found = self._candidates[model, phase, adapter] = Candidates((), self.prefixes(model))
        return found

    def lacks_adapter(self, model: str, adapter: str | None) -> bool:
        """Whether there are instances of a model, none of them with this adapter."""
        if adapter is None or not self.serving(model):
            return False
        return not any(self.with_credit(model, phase, adapter).members for phase in (Phase.WHOLE, Phase.PREFILL))

    def prefixes(self, model: str) -> PrefixIndex:
        """What the instances of a model hold in their prefix caches."""
        found = self._prefixes.get(model)
        if found is None:
            found = self._prefixes[model] = PrefixIndex()
        return found

    def heard(self, stats: InstanceStats, now_s: float) -> Instance:
        """Take in a heartbeat; an unknown instance becomes known."""
        instance = self._by_id.get(stats.info.instance_id)
        if instance is not None and _duties(instance.info) != _duties(stats.info):
            self.forget(instance)
            instance = None
        if instance is None:
            instance = Instance(stats.info, stats.state, now_s)
            self._admit(instance)
        instance.info = stats.info
        instance.state = stats.state
        instance.term = stats.term
        instance.running = stats.running
        instance.stats = stats.stats
        instance.heard_s = now_s
        return instance

    def forget(self, instance: Instance) -> None:
        """It is gone."""
        if self._by_id.pop(instance.id, None) is None:
            return
        model = instance.info.model
        for candidates in self._of(instance):
            candidates.leave(instance)
        self.prefixes(model).clear(instance.id)
        self._by_model[model].remove(instance)
        if not self._by_model[model]:
            del self._by_model[model]

    def _admit(self, instance: Instance) -> None:
        model = instance.info.model
        self._by_id[instance.id] = instance
        self._by_model.setdefault(model, []).append(instance)
        for candidates in self._of(instance):
            candidates.join(instance)

    def _of(self, instance: Instance) -> list[Candidates]:
        """Where it is a candidate."""
        info = instance.info
        adapters = (None, *dict.fromkeys(info.adapters))
        return [self.with_credit(info.model, phase, name) for phase in phases_of(info.role) for name in adapters]


def _duties(info: InstanceInfo) -> tuple[str, InstanceRole, list[str]]:
    """What it can be sent."""
    return info.model, info.role, info.adapters
