"""Trace files: what is read, and what is said of a bad line."""

import gzip
from pathlib import Path

import pytest

from sagellm.simulator.traces import TraceRequest, apply_mixes, parse_mix, read_trace, shareable
from sagellm_schemas import InvalidRequest

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
"""
MOONCAKE = """{"timestamp": 500, "input_length": 1100, "output_length": 7, "hash_ids": [1, 2, 3]}
{"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [1, 9]}
"""


def file_of(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


@pytest.mark.parametrize("name", ["trace.csv", "trace.csv.gz"])
def test_an_azure_trace_begins_at_zero(tmp_path: Path, name: str) -> None:
    first, second = read_trace(file_of(tmp_path, name, AZURE))
    assert (first.arrival_s, first.input_tokens, first.output_tokens) == (0.0, 374, 44)
    assert second.arrival_s == pytest.approx(4.314579)


def test_a_mooncake_trace_is_sorted_and_keeps_full_blocks(tmp_path: Path) -> None:
    first, second = read_trace(file_of(tmp_path, "trace.jsonl", MOONCAKE))
    assert (first.input_tokens, first.blocks, second.blocks) == (600, (1,), (1, 2))
    assert second.arrival_s == 0.5


def test_the_duration_cuts_the_trace(tmp_path: Path) -> None:
    assert len(read_trace(file_of(tmp_path, "trace.csv", AZURE), 4.0)) == 1


def test_equal_block_names_are_equal_tokens_and_everything_else_is_unique() -> None:
    one = TraceRequest(arrival_s=0, input_tokens=20, output_tokens=1, blocks=(7,))
    other = TraceRequest(arrival_s=0, input_tokens=24, output_tokens=1, blocks=(7,))
    a, b = one.token_ids(0), other.token_ids(1000)
    assert (len(a), len(b)) == (20, 24)
    assert list(a[:16]) == list(b[:16])
    assert not set(a[16:]) & set(b[16:])


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", "time,in,out\n", "line 1: an Azure trace begins with the line TIMESTAMP"),
        ("a.csv", AZURE + "2023-11-16 18:15:51,3\n", "line 4: there must be 3 fields, not 2"),
        ("a.csv", AZURE + "yesterday,3,4\n", "line 4: TIMESTAMP must be like"),
        ("a.csv", AZURE + "2023-11-16 18:15:51,-3,4\n", "line 4: ContextTokens must be a whole number from 1"),
        ("a.csv", AZURE.splitlines()[0], "has no requests"),
        ("a.jsonl", MOONCAKE + "\n{}", "line 4: not a Mooncake request: Object missing required field"),
        ("a.jsonl", MOONCAKE + "x", "line 3: not a Mooncake request"),
        ("a.jsonl", MOONCAKE.replace("9]", "-9]"), "line 2: hash_ids must not be negative"),
        ("a.txt", "", "must end in .csv"),
        ("a.csv.gz", "", "line 1: an Azure trace begins with"),
    ],
)
def test_a_bad_trace_is_one_clear_error(tmp_path: Path, name: str, text: str, said: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        read_trace(file_of(tmp_path, name, text))
    assert said in error.value.message


def test_a_trace_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="cannot be read: No such file"):
        read_trace(tmp_path / "none.csv")


def test_a_mix_replaces_its_share() -> None:
    requests = [TraceRequest(arrival_s=i, input_tokens=10, output_tokens=5) for i in range(1000)]
    mixes = [parse_mix("long:0.1:3000:200"), parse_mix("batch:0.3:-:-:priority=LOW:users=2:ttft_slo_ms=none")]
    mixed = apply_mixes(requests, mixes, 3, seed=1)
    long = [r for r in mixed if r.kind == "long"]
    batch = [r for r in mixed if r.kind == "batch"]
    assert 60 < len(long) < 140
    assert 240 < len(batch) < 360
    assert {(r.input_tokens, r.output_tokens) for r in long} == {(3000, 200)}
    assert {(r.input_tokens, r.priority) for r in batch} == {(10, 3)}
    assert {r.user for r in batch} == {"batch-1", "batch-2"}
    assert {r.user for r in mixed if r.kind == "chat"} == {"user-1", "user-2", "user-3"}
    assert mixed == apply_mixes(requests, mixes, 3, seed=1)
    assert mixed != apply_mixes(requests, mixes, 3, seed=2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("long", "it must be NAME:SHARE"),
        ("long:2", "the share must be above 0"),
        ("long:x", "could not convert"),
        ("long:0.1:0", "must be at least 1"),
        ("long:0.1:-:-:colour=red", "there is no field 'colour'"),
        ("long:0.1:priority=URGENT", "priority must be one of"),
        ("long:0.1:cost_budget=-1", "cost_budget must be a number above 0"),
    ],
)
def test_a_bad_mix_is_one_clear_error(text: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match="cannot be used") as error:
        parse_mix(text)
    assert said in error.value.message


def test_mixes_cannot_be_more_than_everything() -> None:
    with pytest.raises(InvalidRequest, match="more than 1"):
        apply_mixes([], [parse_mix("a:0.6"), parse_mix("b:0.6")], 0, 0)


RECORDED = (
    '{"arrival_s":1795500000.5,"model":"m","user":"5f","priority":"HIGH","ttft_slo_ms":500,"max_tokens":99,'
    '"input_tokens":40,"output_tokens":7,"outcome":"finished","block_tokens":16,"blocks":[3,4],"new_field":1}\n'
    '{"arrival_s":1795500002.5,"input_tokens":9,"output_tokens":0,"outcome":"cancelled"}\n'
    '{"arrival_s":1795499999.5,"input_tokens":9,"output_tokens":2,"priority":4,"can_be_preempted":false}\n'
)


def test_a_recorded_trace_has_what_generated_tokens_with_all_that_was_asked_for(tmp_path: Path) -> None:
    first, second = read_trace(file_of(tmp_path, "trace.jsonl.gz", RECORDED))
    assert (first.arrival_s, first.priority, first.can_be_preempted) == (0.0, 4, False)
    assert (second.arrival_s, second.priority, second.user, second.ttft_slo_ms) == (1.0, 1, "5f", 500)
    assert (second.input_tokens, second.output_tokens, second.max_tokens) == (40, 7, 99)
    assert (second.blocks, second.block_tokens) == ((3, 4), 16)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"HIGH"', '"URGENT"', "line 1: priority must be one of"),
        ('"ttft_slo_ms":500', '"ttft_slo_ms":-5', "line 1: ttft_slo_ms must be a number above 0"),
        ('"blocks":[3,4]', '"blocks":[3,-4]', "line 1: blocks must not be negative"),
        ('"blocks":[3,4]', '"blocks":[3,4,5]', "line 1: 3 blocks of 16 are more than input and output"),
        ('"block_tokens":16', '"block_tokens":0', "line 1: block_tokens must be from 1"),
        ('"max_tokens":99', '"max_tokens":0', "line 1: max_tokens must be a whole number from 1"),
        (
            '"input_tokens":9,"output_tokens":2',
            '"input_tokens":0,"output_tokens":2',
            "line 3: input_tokens must be",
        ),
        ('"output_tokens":2', '"output_tokens":"2"', "line 3: not a recorded request: Expected `int`, got `str`"),
        ('{"arrival_s":1795500002.5', "{", "line 2: not a recorded request"),
    ],
)
def test_a_bad_recording_is_one_clear_error(tmp_path: Path, old: str, new: str, said: str) -> None:
    text = RECORDED.replace(old, new)
    assert text != RECORDED
    with pytest.raises(InvalidRequest) as error:
        read_trace(file_of(tmp_path, "a.jsonl", text))
    assert said in error.value.message


def asks(*blocks: int, input_tokens: int) -> TraceRequest:
    return TraceRequest(
        arrival_s=0.0, input_tokens=input_tokens, output_tokens=1, blocks=tuple(blocks), block_tokens=8
    )


def test_a_cache_that_forgets_nothing_finds_every_prefix_that_came_before() -> None:
    # 16 + 7 tokens, then the same 16 and more, of which 16 are found; then all 24, but not the last token's block.
    first, longer, again = (
        asks(1, 2, input_tokens=23),
        asks(1, 2, 3, input_tokens=30),
        asks(1, 2, 3, input_tokens=24),
    )
    assert shareable([first, longer, again], 4) == (16 + 20) / (23 + 30 + 24)


def test_a_block_counts_only_behind_all_the_blocks_before_it() -> None:
    assert shareable([asks(1, 2, 3, input_tokens=24), asks(9, 2, 3, input_tokens=24)], 8) == 0


def test_blocks_larger_than_those_of_the_trace_are_not_shared_in_part() -> None:
    assert shareable([asks(1, 2, 3, input_tokens=25), asks(1, 2, 3, input_tokens=25)], 16) == 16 / 50


def test_nothing_to_share_is_nothing() -> None:
    assert shareable([], 16) == 0
    assert shareable([asks(input_tokens=5)] * 2, 16) == 0
