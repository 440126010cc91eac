"""From samples to numbers."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagellm.cli.bench.sample import Sample, sample
from sagellm.cli.bench.summary import medians, percentiles, summarize


def test_a_sample_counts_from_the_moment_of_sending() -> None:
    found = sample(10.0, [10.5, 10.6, 10.9], prompt_tokens=7, output_tokens=5)
    assert found.ttft_ms == pytest.approx(500)
    assert found.end_to_end_ms == pytest.approx(900)
    assert found.itl_ms == pytest.approx([100, 300])
    assert found.tpot_ms == pytest.approx(100)  # 400 ms for the four tokens after the first


def test_an_answer_without_tokens_is_an_error() -> None:
    assert sample(0.0, [], 1, 0).error == "the answer had no tokens"


def test_failed_requests_count_only_as_errors() -> None:
    good = Sample(ttft_ms=4.0, tpot_ms=2.0, end_to_end_ms=10.0, output_tokens=4)
    summary = summarize([good, good, Sample(error="HTTP 500"), Sample(error="HTTP 500")], duration_s=2.0)
    assert (summary.requests, summary.errors) == (2, 2)
    assert summary.requests_per_s == 1.0
    assert summary.output_tokens_per_s == 4.0
    assert summary.ttft_ms.p50 == 4.0
    assert summary.error_messages == {"HTTP 500": 2}


def test_medians_are_taken_of_each_number() -> None:
    runs = [
        summarize([Sample(ttft_ms=ttft, output_tokens=tokens)], duration_s=1.0)
        for ttft, tokens in ((1.0, 30), (2.0, 10), (9.0, 20))
    ]
    middle = medians(runs)
    assert middle.ttft_ms.p50 == 2.0
    assert middle.output_tokens_per_s == 20.0
    assert middle.requests == 3


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=300))
def test_percentiles_are_values_that_so_many_do_not_exceed(values: list[float]) -> None:
    found = percentiles(values)
    for share, value in ((50, found.p50), (90, found.p90), (99, found.p99)):
        assert value in values
        assert sum(v <= value for v in values) >= math.ceil(share * len(values) / 100)
        assert sum(v < value for v in values) < math.ceil(share * len(values) / 100)
