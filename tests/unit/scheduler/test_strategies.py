"""What each routing strategy is for, and what none may do."""

from collections import Counter

import pytest

from sagellm.scheduler.candidates import Candidates
from sagellm.scheduler.instances import Instance
from sagellm.scheduler.prefixes import PrefixIndex
from sagellm.scheduler.requests import TrackedRequest
from sagellm.scheduler.routing import BUILT_IN, make_router, preferred
from sagellm_schemas import EngineState, InferenceRequest, InstanceInfo

NAMES = [router.name for router in BUILT_IN]
BLOCK = 16


def request(number: int, tokens: list[int] | None = None, **fields: object) -> TrackedRequest:
    prompt = {"prompt": f"prompt {number}"} if tokens is None else {"prompt_token_ids": tokens}
    asked = InferenceRequest(model="m", id=f"r{number}", **prompt, **fields)
    return TrackedRequest(asked, number, "ack", "application/json", 2, 0.0)


def fleet(count: int, capacity: int = 100) -> list[Instance]:
    """Two instances to a machine, four to a rack."""
    return [
        Instance(
            InstanceInfo(
                instance_id=f"w{i}-0a",
                model="m",
                max_concurrent_requests=capacity,
                machine_id=f"m{i // 2}",
                rack_id=f"k{i // 4}",
            ),
            EngineState.READY,
            0.0,
        )
        for i in range(count)
    ]


def candidates_of(instances: list[Instance]) -> Candidates:
    return Candidates(instances, PrefixIndex(BLOCK))


def conversation(number: int, blocks: int = 8) -> list[int]:
    return [number * 1000 + i for i in range(blocks * BLOCK)]


@pytest.mark.parametrize("name", NAMES)
def test_a_full_draining_or_dead_instance_gets_nothing(name: str) -> None:
    instances = fleet(8, capacity=3)
    candidates, router = candidates_of(instances), make_router(name)
    instances[1].state = EngineState.DRAINING
    instances[2].state = EngineState.ERROR
    instances[3].closed = "draining"
    candidates.leave(instances[4])
    given: Counter[str] = Counter()
    for number in range(1, 13):
        chosen = router.choose(request(number, conversation(number % 3), user_id="ann"), candidates)
        chosen.assign(f"r{number}", number)
        given[chosen.id] += 1
    assert given == {f"w{i}-0a": 3 for i in (0, 5, 6, 7)}
    assert len(candidates) == 0


@pytest.mark.parametrize("name", NAMES)
def test_whatever_a_request_says_of_itself_there_is_a_choice(name: str) -> None:
    instances = fleet(3)
    candidates, router = candidates_of(instances), make_router(name)
    for number, asked in enumerate(
        (
            request(1),
            request(2, [7]),
            request(3, conversation(1), tags={"session": "s"}),
            request(4, user_id="ann"),
        )
    ):
        chosen = router.choose(asked, candidates)
        assert chosen in candidates
        chosen.assign(asked.id, number)


@pytest.mark.parametrize("name", ["load_balanced", "round_robin", "random", "power_of_two", "locality"])
def test_load_counts_what_this_pass_has_assigned(name: str) -> None:
    instances = fleet(10)
    candidates, router = candidates_of(instances), make_router(name)
    for number in range(500):
        router.choose(request(number, conversation(number)), candidates).assign(f"r{number}", number)
    most = max(len(i.assigned) for i in instances)
    assert most <= {"random": 75, "power_of_two": 54, "locality": 66}.get(name, 50)


def test_two_random_choices_spread_load_better_than_one() -> None:
    most = {}
    for name in ("random", "power_of_two"):
        instances = fleet(20, capacity=1000)
        candidates, router = candidates_of(instances), make_router(name)
        for number in range(2000):
            router.choose(request(number), candidates).assign(f"r{number}", number)
        most[name] = max(len(i.assigned) for i in instances)
    assert most["power_of_two"] < most["random"]


@pytest.mark.parametrize("fields", [{"user_id": "ann"}, {"user_id": "bob", "tags": {"session": "s"}}])
def test_affinity_keeps_a_user_or_session_in_one_place(fields: dict[str, object]) -> None:
    candidates, router = candidates_of(fleet(50)), make_router("affinity")
    assert len({router.choose(request(i, conversation(i), **fields), candidates).id for i in range(20)}) == 1


def test_a_session_counts_more_than_its_user() -> None:
    candidates, router = candidates_of(fleet(50)), make_router("affinity")
    places = {
        router.choose(request(i, user_id="ann", tags={"session": f"s{i}"}), candidates).id for i in range(40)
    }
    assert len(places) > 15


@pytest.mark.parametrize("name", ["affinity", "locality"])
def test_an_instance_that_goes_moves_only_its_own(name: str) -> None:
    instances = fleet(20)
    candidates, router = candidates_of(instances), make_router(name)

    def places() -> list[str]:
        return [router.choose(request(i, conversation(i), user_id=f"u{i}"), candidates).id for i in range(1000)]

    before = places()
    per_instance = Counter(before)
    assert min(per_instance[i.id] for i in instances) > 20
    candidates.leave(instances[7])
    after = places()
    assert all(a == b for a, b in zip(after, before, strict=True) if b != instances[7].id)
    candidates.join(instances[7])
    assert places() == before


def test_locality_brings_prompts_that_begin_alike_together_until_that_is_too_much() -> None:
    instances = fleet(10)
    candidates, router = candidates_of(instances), make_router("locality")
    beginning = conversation(1)
    for number in range(200):
        asked = request(number, [*beginning, number])
        router.choose(asked, candidates).assign(asked.id, number)
    used = sorted(len(i.assigned) for i in instances)
    assert used[-1] <= 26  # 1.25 times the average, and one
    assert used[-1] > used[0]


def test_topology_aware_stays_near_the_last_place() -> None:
    instances = fleet(16)
    candidates, router = candidates_of(instances), make_router("topology_aware")
    first = router.choose(request(1, user_id="ann"), candidates)
    first.assign("r1", 1)
    second = router.choose(request(2, user_id="ann"), candidates)
    assert second.info.machine_id == first.info.machine_id
    for instance in instances:
        if instance.info.machine_id == first.info.machine_id:
            instance.reassign(f"x{i}" for i in range(100))
    third = router.choose(request(3, user_id="ann"), candidates)
    assert third.info.rack_id == first.info.rack_id


def test_topology_aware_does_not_overload_what_is_near() -> None:
    instances = fleet(16)
    candidates, router = candidates_of(instances), make_router("topology_aware")
    first = router.choose(request(1, user_id="ann"), candidates)
    for instance in instances:
        if instance.info.rack_id == first.info.rack_id:
            instance.reassign(f"x{i}" for i in range(60))
    assert router.choose(request(2, user_id="ann"), candidates).info.rack_id != first.info.rack_id


def test_a_decode_goes_near_its_prefill() -> None:
    instances = fleet(16)
    router = make_router("topology_aware")
    prefilling = Candidates(instances[8:9])
    decoding = Candidates(instances[:8] + instances[9:])
    asked = request(1)
    router.choose(asked, prefilling).assign("r1", 1)
    assert router.choose(asked, decoding) is instances[9]


def test_prefix_aware_goes_where_the_longest_prefix_is() -> None:
    instances = fleet(10)
    candidates, router = candidates_of(instances), make_router("prefix_aware")
    history = conversation(1)
    first = router.choose(request(1, history), candidates)
    for number in range(2, 12):
        router.choose(request(number, conversation(number)), candidates).assign(f"r{number}", number)
    grown = history + conversation(99, blocks=4)
    assert router.choose(request(20, grown), candidates) is first


def test_prefix_aware_keeps_a_burst_of_one_conversation_together_before_any_report() -> None:
    candidates, router = candidates_of(fleet(10)), make_router("prefix_aware")
    places = []
    for number in range(1, 6):
        chosen = router.choose(request(number, [*conversation(1, blocks=40), number]), candidates)
        chosen.assign(f"r{number}", number)
        places.append(chosen.id)
    assert len(set(places)) == 1


def test_prefix_aware_weighs_what_is_cached_against_the_load() -> None:
    instances = fleet(4)
    candidates, router = candidates_of(instances), make_router("prefix_aware")
    holder = router.choose(request(1, conversation(1)), candidates)
    holder.reassign(f"x{i}" for i in range(50))
    assert router.choose(request(2, conversation(1)), candidates) is not holder


def test_what_everyone_holds_decides_nothing() -> None:
    instances = fleet(40)
    candidates, router = candidates_of(instances), make_router("prefix_aware")
    system = conversation(1, blocks=20)
    assert candidates.prefixes is not None
    from sagellm_schemas.prefix import short_hashes

    for instance in instances:
        candidates.prefixes.add(instance.id, short_hashes(system, BLOCK, 100))
    for number in range(80):
        chosen = router.choose(request(number, system + conversation(number + 2)), candidates)
        chosen.assign(f"r{number}", number)
    assert {len(i.assigned) for i in instances} == {2}


def test_a_preferred_instance_is_taken_by_its_id_or_its_workers_name() -> None:
    instances = fleet(4, capacity=1)
    candidates = candidates_of(instances)
    assert preferred(request(1, preferred_instance_id="w2-0a"), candidates) is instances[2]
    assert preferred(request(1, preferred_instance_id="w2"), candidates) is instances[2]
    assert preferred(request(1, preferred_instance_id="w9"), candidates) is None
    assert preferred(request(1), candidates) is None
    instances[2].assign("x", 1)
    assert preferred(request(1, preferred_instance_id="w2"), candidates) is None
    assert preferred(request(1, preferred_instance_id="w2-0a"), candidates) is None
