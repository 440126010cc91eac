"""What is known of the workers: their state, their credits, and what runs where."""

from dataclasses import dataclass, field

from sagellm_schemas import EngineState, InstanceInfo, InstanceStats, subjects


@dataclass(slots=True, eq=False)
class Instance:
    """One worker as its latest heartbeat told it, and the requests that this scheduler has assigned to it.

    `assigned` are ids; each holds one of `max_concurrent_requests` credits until its report. `last_turn` is the
    number of the dispatch that last chose this instance. `suspects` ran there at the latest
    heartbeat without our having sent them, `strays` at two in a row. `heard_s` is on the monotonic clock.
    """

    info: InstanceInfo
    state: EngineState
    heard_s: float
    term: int = 0
    running: dict[str, int] = field(default_factory=dict)
    assigned: set[str] = field(default_factory=set)
    suspects: set[str] = field(default_factory=set)
    strays: set[str] = field(default_factory=set)
    last_turn: int = 0
    work_subject: str = ""

    def __post_init__(self) -> None:
        self.work_subject = subjects.work(self.info.role, self.info.instance_id)

    @property
    def id(self) -> str:
        """The instance's id."""
        return self.info.instance_id

    @property
    def has_credit(self) -> bool:
        """Whether a request may be assigned now: it is ready, and not full."""
        return self.state is EngineState.READY and len(self.assigned) < self.info.max_concurrent_requests

    @property
    def load(self) -> float:
        """Share of the credits in use."""
        return len(self.assigned) / max(1, self.info.max_concurrent_requests)


class Instances:
    """Every known instance, by id and by model."""

    def __init__(self) -> None:
        self._by_id: dict[str, Instance] = {}
        self._by_model: dict[str, list[Instance]] = {}

    def all(self) -> list[Instance]:
        """Every known instance; the list is the caller's."""
        return list(self._by_id.values())

    def get(self, instance_id: str) -> Instance | None:
        """The instance of that id, if it is known."""
        return self._by_id.get(instance_id)

    def serving(self, model: str) -> list[Instance]:
        """The instances of a model."""
        return self._by_model.get(model, [])

    def with_credit(self, model: str) -> list[Instance]:
        """The instances of a model that can take a request now."""
        return [instance for instance in self._by_model.get(model, ()) if instance.has_credit]

    @property
    def load(self) -> float:
        """Share of all instances' credits that are in use."""
        capacity = sum(instance.info.max_concurrent_requests for instance in self._by_id.values())
        return sum(len(instance.assigned) for instance in self._by_id.values()) / max(1, capacity)

    def heard(self, stats: InstanceStats, now_s: float) -> Instance:
        """Take in a heartbeat; an unknown instance becomes known."""
        instance = self._by_id.get(stats.info.instance_id)
        if instance is not None and (instance.info.model, instance.info.role) != (
            stats.info.model,
            stats.info.role,
        ):
            self.forget(instance)
            instance = None
        if instance is None:
            instance = self._by_id[stats.info.instance_id] = Instance(stats.info, stats.state, now_s)
            self._by_model.setdefault(stats.info.model, []).append(instance)
        instance.info = stats.info
        instance.state = stats.state
        instance.term = stats.term
        instance.running = stats.running
        instance.heard_s = now_s
        return instance

    def forget(self, instance: Instance) -> None:
        """It is gone."""
        if self._by_id.pop(instance.id, None) is not None:
            self._by_model[instance.info.model].remove(instance)
            if not self._by_model[instance.info.model]:
                del self._by_model[instance.info.model]
