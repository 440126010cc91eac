"""Which instance is chosen."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagellm.scheduler.candidates import Candidates
from sagellm.scheduler.instances import Instances
from sagellm.scheduler.policies import Fifo, Priority, make_policy
from sagellm.scheduler.routing import LoadBalanced, RoundRobin, make_router
from sagellm_schemas import EngineState, EngineStats, InstanceStats, SettingsError

from .making import make_instance, make_request


def spread(router: LoadBalanced | RoundRobin, capacities: list[int], count: int) -> Counter[str]:
    """How many of `count` requests each instance gets, as a pass of the dispatcher would assign them."""
    instances = [make_instance(f"w{i}", capacity) for i, capacity in enumerate(capacities)]
    got: Counter[str] = Counter()
    candidates = Candidates(instances)
    for turn in range(1, count + 1):
        if not candidates:
            break
        chosen = router.choose(make_request(turn), candidates)
        chosen.assign(f"r{turn}", turn)
        got[chosen.id] += 1
    return got


@given(st.lists(st.integers(1, 20), min_size=1, max_size=6), st.integers(0, 150))
def test_load_balanced_keeps_shares_within_one_request_of_each_other(capacities: list[int], count: int) -> None:
    got = spread(LoadBalanced(), capacities, count)
    assert sum(got.values()) == min(count, sum(capacities))
    loads = [got[f"w{i}"] / capacity for i, capacity in enumerate(capacities)]
    for i, capacity in enumerate(capacities):
        assert loads[i] - 1 / capacity <= min(loads) + 1e-9


@given(st.integers(1, 6), st.integers(0, 60))
def test_round_robin_gives_everyone_the_same(instances: int, count: int) -> None:
    got = spread(RoundRobin(), [100] * instances, count)
    assert max(got.values(), default=0) - min((got[f"w{i}"] for i in range(instances)), default=0) <= 1


def test_equal_loads_take_turns() -> None:
    instances = [make_instance("a", 8), make_instance("b", 8)]
    instances[0].last_turn = 5
    assert LoadBalanced().choose(make_request(1), Candidates(instances)).id == "b"


@pytest.mark.parametrize("state", [s for s in EngineState if s is not EngineState.READY])
def test_only_ready_instances_take_work(state: EngineState) -> None:
    instances = Instances()
    info = make_instance("w").info
    instance = instances.heard(InstanceStats(info=info, state=state, running={}, stats=EngineStats()), 0.0)
    assert list(instances.with_credit("m")) == []
    instance.state = EngineState.READY
    assert list(instances.with_credit("m")) == [instance]
    instance.reassign({"a", "b"})
    assert list(instances.with_credit("m")) == []


def test_policies_and_routers_are_found_by_name() -> None:
    assert isinstance(make_policy("fifo"), Fifo)
    assert isinstance(make_policy("priority"), Priority)
    assert isinstance(make_router("load_balanced"), LoadBalanced)
    assert isinstance(make_router("round_robin"), RoundRobin)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SettingsError, match="choose one of adaptive, cost_optimized"):
        make_policy("fiffo")
    with pytest.raises(SettingsError, match="choose one of affinity, load_balanced"):
        make_router("best")


def test_an_installed_package_can_add_a_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    from sagellm.scheduler import plugins

    entries = [
        EntryPoint("theirs", "sagellm.scheduler.policies.fifo:Fifo", "sagellm.policies"),
        EntryPoint("broken", "sagellm.scheduler.policies.fifo:Nothing", "sagellm.policies"),
    ]
    monkeypatch.setattr(plugins, "entry_points", lambda group: entries)
    assert isinstance(make_policy("theirs"), Fifo)
    with pytest.raises(SettingsError, match="cannot be loaded"):
        make_policy("broken")
