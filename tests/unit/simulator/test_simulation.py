"""Whole runs: exact times, conservation, and the same result for the same seed."""

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sagellm.scheduler.routing import BUILT_IN
from sagellm.simulator.outcome import Outcome
from sagellm.simulator.traces import TraceRequest, parse_mix
from sagellm_schemas import SettingsError

from .scenarios import scenario_of

POLICIES = ("fifo", "priority", "slo_aware", "fair", "cost_optimized", "adaptive", "edf", "sjf")


def request_at(arrival_s: float, input_tokens: int, output_tokens: int, **fields: object) -> TraceRequest:
    return TraceRequest(
        arrival_s=arrival_s,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        **fields,  # type: ignore[arg-type]
    )


def by_arrival(outcomes: list[Outcome]) -> list[Outcome]:
    return sorted(outcomes, key=lambda outcome: outcome.request.arrival_s)


def test_two_requests_at_one_instance_take_exactly_as_long_as_they_must() -> None:
    # Steps take 9 ms and 1 ms a token. At 0: 10 tokens, 19 ms; then a decode of 10 ms, under way when b comes at
    # 25; it ends at 29. Then a's third token beside b's prompt of 30: 9 + 31 = 40 ms, to 69; b's second: to 79.
    scenario = scenario_of([request_at(0.0, 10, 3), request_at(0.025, 30, 2)])
    a, b = by_arrival(scenario.run(0, 1.0)[1])
    assert (a.ttft_ms, a.latency_ms) == (pytest.approx(19), pytest.approx(69))
    assert (a.tpot_ms, a.gap_p99_ms) == (pytest.approx(25), pytest.approx(40))
    assert (b.ttft_ms, b.latency_ms) == (pytest.approx(44), pytest.approx(54))
    assert (a.wait_ms, b.wait_ms) == (0, 0)


def test_who_finds_no_credit_waits_in_the_scheduler_and_the_policy_decides_who_is_next() -> None:
    requests = [request_at(0.0, 10, 2), request_at(0.001, 10, 1, priority=3), request_at(0.002, 10, 1, priority=0)]
    scenario = scenario_of(requests, policy="priority", max_num_seqs=1)
    first, low, critical = by_arrival(scenario.run(0, 1.0)[1])
    assert first.latency_ms == pytest.approx(29)
    assert critical.wait_ms == pytest.approx(27)
    assert low.wait_ms == pytest.approx(29 + 19 - 1)


def test_an_slo_that_is_missed_shows_in_its_class_only() -> None:
    requests = [request_at(0.0, 100, 2, kind="long", ttft_slo_ms=50.0), request_at(5.0, 10, 2)]
    result = scenario_of(requests).run(0, 1.0)[0]
    assert {kind: found.attainment for kind, found in result.classes.items()} == {
        "all": 0.5,
        "chat": 1.0,
        "long": 0,
    }


def test_a_request_that_never_fits_is_rejected_and_counts_as_missed() -> None:
    result = scenario_of([request_at(0.0, 5000, 2), request_at(1.0, 10, 2)]).run(0, 1.0)[0]
    assert (result.overall.rejected, result.overall.finished, result.overall.attainment) == (1, 1, 0.5)


@pytest.mark.parametrize("routing", [router.name for router in BUILT_IN])
def test_every_routing_strategy_runs_on_conversations(routing: str) -> None:
    requests = [
        request_at(turn + chat / 10, 24 + 24 * turn, 4, blocks=tuple(range(100 * chat, 100 * chat + 3 + 3 * turn)))
        for turn in range(3)
        for chat in range(5)
    ]
    requests = [replace(request, block_tokens=8) for request in requests]
    overall = scenario_of(requests, routing=routing, instances=3).run(0, 1.0)[0].overall
    assert overall.finished == 15
    if routing == "prefix_aware":
        assert overall.prefix_hit_rate > 0.3


def test_a_split_request_pays_for_its_transfer() -> None:
    # 90 tokens of KV at 1,000 bytes each and 1 MB/s: 90 ms between the first token and the next step.
    cost = msgspec.structs.replace(scenario_of().plan.cost, kv_bytes_per_token=1000.0, kv_read_bytes_per_s=1e15)
    scenario = scenario_of(
        [request_at(0.0, 90, 3, max_tokens=3)],
        cost=cost,
        instances=0,
        prefill=1,
        decode=1,
        pd_policy="threshold",
        transfer_bytes_per_s=1e6,
    )
    outcome = scenario.run(0, 1.0)[1][0]
    assert outcome.ttft_ms == pytest.approx(99)
    assert outcome.latency_ms == pytest.approx(99 + 90 + 10 + 10, rel=1e-6)
    assert outcome.instance == "decoding-2"


def test_a_burst_of_long_prompts_stalls_no_decode_where_prefill_is_apart() -> None:
    # Answers of 200 tokens of about 10 ms each are under way when ten prompts of 90 tokens come, 99 ms each.
    chats = [request_at(0.1 * i, 30, 200) for i in range(4)]
    burst = [request_at(0.5 + 0.001 * i, 90, 2, max_tokens=2) for i in range(10)]
    outcomes = {
        name: by_arrival(scenario_of(chats + burst, pd_policy="threshold", **roles).run(0, 1.0)[1])
        for name, roles in {
            "general": {"instances": 2},
            "apart": {"instances": 0, "prefill": 1, "decode": 1},
        }.items()
    }
    gaps_ms = {name: max(outcome.gap_p99_ms for outcome in found[:4]) for name, found in outcomes.items()}
    assert gaps_ms["general"] > 90
    assert gaps_ms["apart"] < 45  # other chats' prompts of 30 tokens run beside decodes


def test_a_class_may_have_no_slo_where_the_others_have_one() -> None:
    scenario = scenario_of([request_at(0.0, 100, 2), request_at(5.0, 100, 2)], ttft_slo_ms=50.0, tbt_slo_ms=90.0)
    free = replace(scenario, mixes=[parse_mix("free:1:ttft_slo_ms=none")])
    assert scenario.run(0, 1.0)[0].overall.attainment == 0
    assert free.run(0, 1.0)[0].overall.attainment == 1


def test_a_conversation_finds_its_prefix_where_routing_knows_it_to_be() -> None:
    requests = [
        request_at(
            turn + 0.1 * user, 40 * turn, 8, block_tokens=4, blocks=tuple(range(99 * user, 99 * user + 10 * turn))
        )
        for turn in range(1, 5)
        for user in range(1, 9)
    ]
    rates = {
        routing: scenario_of(requests, routing=routing, instances=4).run(0, 1.0)[0].overall.prefix_hit_rate
        for routing in ("prefix_aware", "random")
    }
    assert rates["prefix_aware"] == pytest.approx(8 * (40 + 80 + 120) / (8 * (40 + 80 + 120 + 160)), abs=0.02)
    assert rates["random"] < rates["prefix_aware"]
    best = scenario_of(requests, instances=4).run(0, 1.0)[0].prefix_hit_rate_infinite
    assert rates["prefix_aware"] == pytest.approx(best, abs=0.02)


def test_a_budget_shortens_an_answer_or_refuses_it_and_is_never_overrun() -> None:
    requests = [request_at(i * 1.0, 20, 40, cost_budget=budget) for i, budget in enumerate([1e-9, 2e-5, 1.0] * 3)]
    result, outcomes = scenario_of(requests, prices_per_hour=(1.0,), policy="cost_optimized").run(0, 1.0)
    poor, short, rich = (by_arrival(outcomes)[i::3] for i in range(3))
    assert {o.status for o in poor} == {"rejected"}
    assert all("would cost" in o.reason for o in poor)
    assert all(o.output_tokens < 40 for o in short)
    assert all(o.output_tokens == 40 for o in rich)
    assert result.over_budget == 0


@pytest.mark.parametrize("policy", POLICIES)
def test_the_same_seed_gives_the_same_result(policy: str) -> None:
    def result(seed: int) -> bytes:
        scenario = scenario_of(policy=policy, routing="random", instances=2, mixes=[parse_mix("long:0.3:90:30")])
        return msgspec.json.encode(scenario.run(seed, 20.0)[0])

    assert result(1) == result(1)
    assert result(1) != result(2)


requests = st.lists(
    st.builds(
        request_at,
        st.floats(0, 2),
        st.integers(33, 90),
        st.integers(1, 30),
        priority=st.integers(0, 4),
        user=st.sampled_from("ab"),
        kind=st.sampled_from(["x", "y"]),
        ttft_slo_ms=st.sampled_from([None, 30.0, 500.0]),
        max_tokens=st.sampled_from([None, 5]),
        blocks=st.sampled_from([(), (1,), (1, 2)]),
    ),
    min_size=1,
    max_size=25,
)


@settings(deadline=None, max_examples=60)
@given(requests, st.sampled_from(POLICIES), st.sampled_from([(2, 0, 0), (0, 1, 1), (1, 1, 2)]))
def test_every_request_ends_once_and_has_all_its_tokens(
    requests: list[TraceRequest], policy: str, roles: tuple[int, int, int]
) -> None:
    requests = sorted(requests, key=lambda r: r.arrival_s)
    scenario = scenario_of(
        requests,
        policy=policy,
        instances=roles[0],
        prefill=roles[1],
        decode=roles[2],
        pd_policy="threshold",
        kv_tokens=140,
    )
    result, outcomes = scenario.run(0, 1.0)
    assert len(outcomes) == len(requests)
    assert sorted(o.request.arrival_s for o in outcomes) == [r.arrival_s for r in requests]
    for outcome in outcomes:
        wanted = min(outcome.request.output_tokens, outcome.request.max_tokens or 99)
        assert outcome.status == "finished"
        assert outcome.output_tokens == wanted
        assert outcome.ttft_ms is not None
        assert 0 <= outcome.wait_ms <= outcome.ttft_ms <= outcome.latency_ms + 1e-6
    assert result.overall.requests == sum(c.requests for kind, c in result.classes.items() if kind != "all")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"instances": 0}, "there must be an instance"),
        ({"prefill": 1}, "go together"),
        ({"max_num_seqs": 200}, "cannot decode 200 requests"),
        ({"kv_tokens": 1}, "at least one block"),
        ({"policy": "best"}, "there is no policy called 'best'"),
        ({"routing": "best"}, "there is no routing strategy called 'best'"),
    ],
)
def test_a_scenario_that_cannot_be_is_one_clear_error(changes: dict[str, object], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        scenario_of(**changes).run(0, 1.0)
