"""Candidates against a plain model of them: a list, built anew for every question."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sagellm.scheduler.candidates import Candidates
from sagellm.scheduler.instances import Instance, Instances
from sagellm.scheduler.phases import Phase
from sagellm.scheduler.routing import by_load
from sagellm_schemas import EngineState, EngineStats, InstanceInfo, InstanceRole, InstanceStats


def rack(instance: Instance) -> str:
    return instance.info.rack_id


def by_turn(instance: Instance) -> tuple[float, ...]:
    return (instance.last_turn,)


class Fleet(RuleBasedStateMachine):
    """Instances come, go, change their state and capacity, and are given and relieved of requests."""

    def __init__(self) -> None:
        super().__init__()
        self.instances = Instances()
        self.turn = 0

    @rule(
        number=st.integers(0, 5),
        state=st.sampled_from([EngineState.READY, EngineState.READY, EngineState.DRAINING]),
        capacity=st.integers(0, 3),
        chunk_tokens=st.sampled_from([0, 1, 6]),
    )
    def heartbeat(self, number: int, state: EngineState, capacity: int, chunk_tokens: int) -> None:
        info = InstanceInfo(
            instance_id=f"w{number}",
            model="m",
            role=InstanceRole.PREFILLING if number == 5 else InstanceRole.GENERAL,
            max_concurrent_requests=capacity,
            rack_id=f"r{number % 2}",
        )
        stats = EngineStats(chunk_tokens=chunk_tokens)
        self.instances.heard(InstanceStats(info=info, state=state, running={}, stats=stats), 0.0)

    @precondition(lambda self: self.instances.all())
    @rule(data=st.data())
    def go(self, data: st.DataObject) -> None:
        self.instances.forget(data.draw(st.sampled_from(self.instances.all())))

    @precondition(lambda self: self.instances.all())
    @rule(data=st.data(), reason=st.sampled_from(["", "draining"]))
    def close(self, data: st.DataObject, reason: str) -> None:
        data.draw(st.sampled_from(self.instances.all())).closed = reason

    @precondition(lambda self: self.instances.with_credit("m"))
    @rule(tokens=st.integers(0, 9))
    def assign(self, tokens: int) -> None:
        self.turn += 1
        self.instances.with_credit("m").least(by_load).assign(f"r{self.turn}", self.turn, tokens)

    @precondition(lambda self: any(i.assigned for i in self.instances.all()))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        instance = data.draw(st.sampled_from([i for i in self.instances.all() if i.assigned]))
        instance.release(data.draw(st.sampled_from(sorted(instance.assigned))))

    @precondition(lambda self: self.instances.all())
    @rule(data=st.data())
    def take_over(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.instances.all())).reassign({"x", "y"})

    @invariant()
    def all_answers_are_right(self) -> None:
        for phase, role in ((Phase.WHOLE, InstanceRole.GENERAL), (Phase.PREFILL, InstanceRole.PREFILLING)):
            members = [i for i in self.instances.all() if i.info.role is role]
            candidates = self.instances.with_credit("m", phase)
            check(candidates, members)
            for name in ("r0", "r1"):
                check(candidates.part(rack, name), [i for i in members if i.info.rack_id == name])


def check(candidates: Candidates, members: list[Instance]) -> None:
    expected = [
        i
        for i in members
        if i.state is EngineState.READY and not i.closed and len(i.assigned) < i.info.max_concurrent_requests
        if not i.stats.chunk_tokens or i.unread_tokens < 2 * i.stats.chunk_tokens
    ]
    assert {i.id for i in candidates} == {i.id for i in expected}
    assert list(candidates.seeds) == [i.seed for i in candidates]
    assert candidates.members == len(members)
    ready = [i for i in members if i.ready]
    capacity = sum(i.capacity for i in ready)
    assert candidates.load == sum(len(i.assigned) for i in ready) / max(1, capacity)
    assert candidates.ready == len(ready)
    assert candidates.unread_tokens == sum(i.unread_tokens for i in ready) / max(1, len(ready))
    for instance in members:
        assert candidates.get(instance.id) is (instance if instance in expected else None)
    if expected:
        assert by_load(candidates.least(by_load)) == min(map(by_load, expected))
        assert by_turn(candidates.least(by_turn)) == min(map(by_turn, expected))


TestFleet = Fleet.TestCase


def test_an_instance_is_given_prompts_for_this_step_and_the_next_as_large_as_its_steps_are_now() -> None:
    info = InstanceInfo(instance_id="w", model="m", max_concurrent_requests=99, max_batched_tokens=8192)
    instance = Instance(info, EngineState.READY, 0.0)
    candidates = Candidates([instance])
    instance.assign("a", 1, 10_000)
    assert list(candidates) == [instance]
    instance.stats = EngineStats(chunk_tokens=3000)
    assert not candidates
    instance.started("a")
    assert list(candidates) == [instance]
    instance.assign("b", 2, 6000)
    assert not candidates
    instance.stats = EngineStats(chunk_tokens=4000)
    assert list(candidates) == [instance]


def test_a_selection_does_not_follow_what_happens_later() -> None:
    info = InstanceInfo(instance_id="w", model="m", max_concurrent_requests=1)
    instance = Instance(info, EngineState.READY, 0.0)
    candidates = Candidates([instance])
    selected = candidates.only(lambda i: i.id == "w")
    instance.assign("r", 1)
    assert len(candidates) == 0
    assert list(selected) == [instance]
