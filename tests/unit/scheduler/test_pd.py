"""Which requests are split, and what happens where that cannot be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagellm.scheduler.instances import Instance, Instances
from sagellm.scheduler.pd import Adaptive, PdPolicy, PdRouter, Prospect, Threshold, make_pd_policy
from sagellm.scheduler.phases import Phase
from sagellm.scheduler.policies.base import Unknown
from sagellm.scheduler.requests import TrackedRequest
from sagellm_schemas import (
    EngineState,
    EngineStats,
    InferenceRequest,
    InstanceInfo,
    InstanceRole,
    InstanceStats,
    SamplingParams,
    SettingsError,
)


def asked(
    input_tokens: int = 1000, output_tokens: int = 100, priority: int = 2, **fields: object
) -> TrackedRequest:
    request = InferenceRequest(
        model="m",
        id="a",
        prompt_token_ids=[1] * input_tokens,
        sampling=SamplingParams(max_tokens=output_tokens),
        **fields,
    )
    return TrackedRequest(request, 1, "ack", "application/json", priority, 0.0)


def fleet(**roles: int) -> Instances:
    """Instances by role, each with so many credits."""
    instances = Instances()
    for role, capacity in roles.items():
        info = InstanceInfo(instance_id=role, model="m", role=InstanceRole(role), max_concurrent_requests=capacity)
        beat = InstanceStats(info=info, state=EngineState.READY, running={}, stats=EngineStats())
        instances.heard(beat, 0.0)
    return instances


class Steady(Unknown):
    """Every prompt takes 0.1 s."""

    def prefill_s(self, request: TrackedRequest) -> float:
        return 0.1


def chosen(
    instances: Instances,
    request: TrackedRequest,
    transfers: bool = True,
    policy: PdPolicy | None = None,
    now_s: float = 0.0,
) -> tuple[Phase, list[str]]:
    router = PdRouter(policy or Threshold(), instances, Steady(), transfers=transfers)
    assert router.available("m")
    phase, candidates = router.place(request, now_s)
    return phase, sorted(instance.id for instance in candidates)


@pytest.mark.parametrize(
    ("input_tokens", "output_tokens", "splits"),
    [(801, 1000, True), (800, 200, False), (800, 199, True), (400, 99, True), (60, 1, False), (100, 0, False)],
)
def test_threshold_splits_long_prompts_and_those_long_beside_their_answer(
    input_tokens: int, output_tokens: int, splits: bool
) -> None:
    prospect = Prospect(input_tokens=input_tokens, output_tokens=output_tokens)
    assert Threshold().splits(asked(), prospect) is splits


@given(
    st.integers(1, 10_000),
    st.integers(1, 500),
    st.floats(0.001, 5),
    st.floats(0, 5),
    st.integers(0, 100),
)
def test_adaptive_splits_sooner_the_more_decodes_would_stall_and_the_less_the_prompt_waits(
    input_tokens: int, output_tokens: int, prefill_s: float, wait_s: float, decoding: int
) -> None:
    def splits(wait_s: float, decoding: int) -> bool:
        prospect = Prospect(
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            prefill_s=prefill_s,
            prefill_wait_s=wait_s,
            transfer_s=0.01,
            decoding=decoding,
        )
        return Adaptive().splits(asked(), prospect)

    assert not splits(wait_s, 0)
    if splits(wait_s, decoding):
        assert splits(wait_s / 2, decoding)
        assert splits(wait_s, decoding + 1)


def test_what_must_not_wait_stays_on_one_instance() -> None:
    busy = Prospect(input_tokens=5000, output_tokens=100, prefill_s=0.5, decoding=50)
    assert Adaptive().splits(asked(), busy)
    assert not Adaptive().splits(asked(priority=0), busy)
    assert not Adaptive().splits(asked(ttft_slo_ms=50.0), busy)
    long_answer = Prospect(input_tokens=5000, output_tokens=600, prefill_s=0.5, decoding=50)
    assert Adaptive().splits(asked(priority=0), long_answer)


def test_while_nothing_is_known_adaptive_goes_by_the_threshold() -> None:
    assert Adaptive().splits(asked(), Prospect(input_tokens=2000, output_tokens=100, decoding=0))
    assert not Adaptive().splits(asked(), Prospect(input_tokens=100, output_tokens=100, decoding=50))


def test_long_prompts_go_to_prefilling_instances_and_short_ones_to_the_others() -> None:
    instances = fleet(prefilling=4, decoding=4, general=4)
    assert chosen(instances, asked(2000)) == (Phase.PREFILL, ["prefilling"])
    assert chosen(instances, asked(10)) == (Phase.WHOLE, ["decoding", "general"])


def test_where_blocks_cannot_move_a_long_prompt_runs_whole_on_a_prefilling_instance() -> None:
    instances = fleet(prefilling=4, decoding=4)
    assert chosen(instances, asked(2000), transfers=False) == (Phase.WHOLE, ["prefilling"])


@pytest.mark.parametrize("transfers", [True, False])
def test_without_prefilling_instances_everything_runs_whole(transfers: bool) -> None:
    assert chosen(fleet(general=1, decoding=1), asked(2000), transfers) == (Phase.WHOLE, ["decoding", "general"])


def full(role: str) -> Instances:
    """A prefilling and a decoding instance of two credits; one of both is full, the other has one in use."""
    instances = fleet(prefilling=2, decoding=2)
    for name in ("prefilling", "decoding"):
        instance = instances.get(name)
        assert isinstance(instance, Instance)
        instance.assign("x", 1)
        if name == role:
            instance.assign("y", 2)
    return instances


def test_what_should_be_split_waits_while_every_prefilling_instance_is_full() -> None:
    assert chosen(full("prefilling"), asked(2000)) == (Phase.PREFILL, [])
    assert chosen(full("prefilling"), asked(10)) == (Phase.WHOLE, ["decoding"])


def test_what_cannot_be_split_takes_any_free_credit() -> None:
    for tokens in (10, 2000):
        assert chosen(full("decoding"), asked(tokens)) == (Phase.WHOLE, ["prefilling"])
        assert chosen(full("prefilling"), asked(tokens), transfers=False) == (Phase.WHOLE, ["decoding"])


def test_a_prefilling_instance_that_is_not_ready_is_not_waited_for() -> None:
    instances = full("prefilling")
    instance = instances.get("prefilling")
    assert isinstance(instance, Instance)
    instance.state = EngineState.DRAINING
    assert chosen(instances, asked(2000)) == (Phase.WHOLE, ["decoding"])


def test_who_has_waited_for_longer_than_its_prompt_would_stall_others_waits_no_more() -> None:
    # One request decodes there: 0.1 s of its time, at half its worth, and 26 ms of transfer.
    instances = full("prefilling")
    assert chosen(instances, asked(2000), policy=Adaptive(), now_s=0.02) == (Phase.PREFILL, [])
    assert chosen(instances, asked(2000), policy=Adaptive(), now_s=0.03) == (Phase.WHOLE, ["decoding"])


def test_a_preferred_prefilling_instance_gets_a_short_request_too() -> None:
    request = asked(10, preferred_instance_id="prefilling")
    assert chosen(fleet(prefilling=1, decoding=1), request) == (Phase.WHOLE, ["prefilling"])


def test_an_unknown_pd_policy_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SettingsError, match="choose one of adaptive, threshold"):
        make_pd_policy("ml")
