"""Which price is a request worth: who waits for a cheap place, for how long, and which dear one it takes then."""

from sagellm.scheduler.candidates import Candidates
from sagellm.scheduler.instances import Instances
from sagellm.scheduler.policies import Adaptive, CostOptimized, PolicyOptions
from sagellm.scheduler.queue import RequestQueue
from sagellm.scheduler.requests import TrackedRequest
from sagellm_schemas import EngineState, EngineStats, InstanceInfo, InstanceStats

from .making import TokenClock, make_request

CRITICAL, NORMAL, LOW, BACKGROUND = 0, 2, 3, 4
CREDITS = 20
STEP_TOKENS = 100


class TwoPrices(TokenClock):
    def lowest_price(self, request: TrackedRequest) -> float:
        return 1.0

    def prices_differ(self, request: TrackedRequest) -> bool:
        return True


class Fleet:
    """Instances by name, each with 20 credits and steps of 100 tokens, and what the policy lets run where."""

    def __init__(self, outlook: TokenClock | None = None, **prices: float) -> None:
        self.instances = Instances()
        self.prices = prices
        for name in prices:
            self.hear(name)
        self.candidates = self.instances.with_credit("m")
        self.policy = CostOptimized(PolicyOptions(ageing_s=10.0))
        self.policy.attach(outlook or TwoPrices())

    def hear(self, name: str, kv_blocks_free: int = 100) -> None:
        info = InstanceInfo(
            instance_id=name,
            model="m",
            max_concurrent_requests=CREDITS,
            max_batched_tokens=STEP_TOKENS,
            price_per_hour=self.prices[name],
        )
        stats = EngineStats(kv_blocks=100, kv_blocks_free=kv_blocks_free)
        self.instances.heard(InstanceStats(info=info, state=EngineState.READY, running={}, stats=stats), 0.0)

    def run(self, name: str, count: int, tokens: int = 0) -> None:
        """Let `count` requests run there, with so many prompt tokens each still to compute."""
        instance = self.instances.get(name)
        assert instance is not None
        for number in range(len(instance.assigned), len(instance.assigned) + count):
            instance.assign(f"{name}/{number}", number, tokens)

    def places(self, request: TrackedRequest, now_s: float) -> list[str]:
        self.policy.entered(request, now_s)
        found: Candidates = self.policy.among(request, self.candidates, now_s)
        self.policy.left(request, now_s)
        return sorted(instance.id for instance in found)


def chat(**fields: object) -> TrackedRequest:
    """Comes at 0 and must have its first token by 1 s."""
    return make_request(0, NORMAL, arrival_s=0.0, **({"ttft_slo_ms": 1000.0} | fields))  # type: ignore[arg-type]


def batch() -> TrackedRequest:
    """Comes at 0 and has 100 s."""
    return make_request(1, LOW, arrival_s=0.0, slo_deadline_ms=100_000.0)


def test_cheap_instances_come_first_and_the_routing_strategy_chooses_among_them() -> None:
    assert Fleet(dear=4.0, a=1.0, b=1.0).places(chat(), 0.0) == ["a", "b"]


def test_pressing_work_waits_a_quarter_of_its_time_for_a_cheap_place() -> None:
    fleet = Fleet(dear=4.0, cheap=1.0)
    fleet.run("dear", 1)
    fleet.run("cheap", 1, tokens=STEP_TOKENS)
    assert fleet.places(chat(), 0.24) == []
    # Then what computes prompts for one step to come is still better than what costs more.
    assert fleet.places(chat(), 0.26) == ["cheap"]
    fleet.run("cheap", 1, tokens=STEP_TOKENS)
    assert fleet.places(chat(), 0.26) == ["dear"]


def test_critical_work_waits_for_no_cheap_place() -> None:
    fleet = Fleet(dear=4.0, cheap=1.0)
    fleet.run("dear", 1)
    fleet.run("cheap", CREDITS)
    request = make_request(0, CRITICAL, arrival_s=0.0)
    assert fleet.places(request, 0.0) == ["dear"]


def test_of_dear_instances_the_fullest_is_filled_and_an_idle_one_opened_last() -> None:
    fleet = Fleet(idle=4.0, few=4.0, many=4.0, cheap=1.0)
    fleet.run("cheap", CREDITS)
    fleet.run("few", 2)
    fleet.run("many", 9)
    assert fleet.places(chat(), 0.3) == ["many"]
    fleet.run("many", CREDITS - 9)
    fleet.run("few", CREDITS - 3)
    assert fleet.places(chat(), 0.3) == []
    assert fleet.places(chat(), 0.46) == ["idle"]


def test_a_cheap_instance_whose_kv_cache_runs_out_counts_as_full() -> None:
    fleet = Fleet(dear=4.0, cheap=1.0)
    fleet.run("dear", 1)
    fleet.hear("cheap", kv_blocks_free=9)
    assert fleet.places(chat(), 0.3) == ["dear"]
    fleet.hear("cheap", kv_blocks_free=11)
    assert fleet.places(chat(), 0.3) == ["cheap"]


def test_where_everything_is_full_all_are_used_alike() -> None:
    fleet = Fleet(dear=4.0, cheap=1.0)
    fleet.run("dear", CREDITS - 1)
    fleet.run("cheap", CREDITS - 1)
    assert fleet.places(chat(), 0.5) == ["cheap", "dear"]


def test_work_that_may_wait_leaves_room_for_pressing_work_until_half_of_its_time_is_over() -> None:
    fleet = Fleet(dear=4.0, cheap=1.0)
    fleet.run("dear", 1)
    assert fleet.places(batch(), 0.0) == ["cheap"]
    fleet.run("cheap", 1, tokens=1)
    assert fleet.places(batch(), 49.0) == []
    assert fleet.places(chat(), 0.0) == ["cheap"]
    assert fleet.places(batch(), 51.0) == ["cheap"]
    fleet.run("cheap", CREDITS - 1)
    assert fleet.places(batch(), 51.0) == ["dear"]


def test_where_all_cost_the_same_nobody_waits() -> None:
    fleet = Fleet(TokenClock(), a=1.0, b=1.0)
    for name in "ab":
        fleet.run(name, CREDITS - 1, tokens=1)
    assert fleet.places(batch(), 0.0) == ["a", "b"]


def test_work_of_low_priority_waits_for_as_long_as_ageing_lets_it() -> None:
    fleet = Fleet(dear=4.0, cheap=1.0)
    fleet.run("dear", 1)
    fleet.run("cheap", CREDITS)
    patient = make_request(1, BACKGROUND, arrival_s=0.0)
    assert fleet.places(patient, 39.0) == []
    assert fleet.places(patient, 41.0) == ["dear"]


def test_if_the_first_may_wait_so_may_all_behind_it() -> None:
    fleet = Fleet(dear=4.0, cheap=1.0)
    queue = RequestQueue(fleet.policy)
    for sequence, priority in enumerate((BACKGROUND, LOW, NORMAL, CRITICAL)):
        queue.push(make_request(sequence, priority, arrival_s=0.0), 0.0)
    assert [request.sequence for request in queue.preview(0.0)] == [3, 2, 1, 0]
    # What has waited for long enough is as pressing as what came a moment ago.
    queue.push(make_request(4, NORMAL, arrival_s=40.0), 40.0)
    assert [request.sequence for request in queue.preview(40.0)] == [3, 2, 1, 0, 4]


def test_adaptive_lets_cost_optimized_decide_where_prices_matter() -> None:
    fleet = Fleet(dear=4.0, cheap=1.0)
    policy = Adaptive()
    policy.attach(TwoPrices())
    queue = RequestQueue(policy)
    for i in range(100):
        queue.push(make_request(i, LOW, arrival_s=float(i)), float(i))
        assert queue.pop(float(i)) is not None
    assert policy.active == "cost_optimized"
    fleet.run("dear", CREDITS - 1)
    fleet.run("cheap", CREDITS - 1)
    request = make_request(100, CRITICAL, arrival_s=100.0)
    policy.entered(request, 100.0)
    assert sorted(instance.id for instance in policy.among(request, fleet.candidates, 100.0)) == ["cheap", "dear"]


def test_adaptive_saves_nothing_while_instances_are_nearly_full() -> None:
    outlook = TwoPrices()
    policy = Adaptive()
    policy.attach(outlook)
    queue = RequestQueue(policy)

    def feed(first: int, load: float) -> str:
        outlook.load = load
        for i in range(first, first + 100):
            queue.push(make_request(i, LOW, arrival_s=float(i), slo_deadline_ms=600_000.0), float(i))
            assert queue.pop(float(i)) is not None
        return policy.active

    assert feed(0, load=0.7) == "slo_aware"
    assert feed(100, load=0.5) == "cost_optimized"
    assert feed(200, load=0.7) == "cost_optimized"
    assert feed(300, load=0.9) == "slo_aware"
