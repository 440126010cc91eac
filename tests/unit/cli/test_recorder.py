"""What a recording says of requests, from the messages that pass by."""

import zlib
from pathlib import Path

import msgspec
import pytest

from sagellm.broker import Message
from sagellm.cli.record import turns
from sagellm.cli.record.disguise import Disguise
from sagellm.cli.record.recorder import CANCEL_GRACE_S, Recorder
from sagellm.cli.record.trace_file import TraceFile
from sagellm.simulator.traces import RecordedRequest, read_trace
from sagellm_schemas import (
    Cancel,
    DeadLetter,
    Ended,
    ErrorBody,
    InferenceRequest,
    InvalidRequest,
    Outcome,
    SamplingParams,
    Unavailable,
    Usage,
    WorkReport,
    encode,
    subjects,
)


class Heard:
    """A recorder, its clock, and the lines it writes."""

    def __init__(self, **options: object) -> None:
        self.now_s = 1000.0
        self.lines: list[RecordedRequest] = []
        self.recorder = Recorder(self.lines.append, Disguise(), clock=lambda: self.now_s, **options)

    def request(self, name: str, tokens: int = 40, **fields: object) -> None:
        given: dict[str, object] = {"model": "m", "prompt_token_ids": list(range(tokens))} | fields
        if "prompt" in given:
            del given["prompt_token_ids"]
        payload = encode(InferenceRequest(id=name, **given))
        self.recorder.on_request(Message(subjects.requests("m"), "", payload, {}))

    def ended(self, name: str, outcome: Outcome = Outcome.FINISHED, **fields: object) -> None:
        report = WorkReport(instance="w", ended=[Ended(id=name, attempt=1, outcome=outcome, **fields)])
        self.recorder.on_report(Message("", "", encode(report), {}))

    def cancel(self, name: str) -> None:
        self.recorder.on_cancel(Message("", "", encode(Cancel(ids=[name])), {}))


def test_a_line_has_what_was_asked_for_and_what_was_generated() -> None:
    heard = Heard()
    heard.request(
        "a",
        user_id="alice",
        priority="high",
        ttft_slo_ms=500.0,
        billing_tier="premium",
        can_be_preempted=False,
        cost_budget=2.0,
        tags={"session": "s1"},
        sampling=SamplingParams(max_tokens=99),
    )
    assert heard.lines == []
    heard.now_s += 2.0
    usage = Usage(prompt_tokens=40, completion_tokens=7, cached_tokens=16)
    heard.ended("a", usage=usage, first_token_ms=300.0, duration_ms=1000.0)
    (line,) = heard.lines
    assert (line.input_tokens, line.output_tokens, line.cached_tokens, line.max_tokens) == (40, 7, 16, 99)
    assert (line.arrival_s, line.latency_ms, line.ttft_ms, line.outcome) == (1000.0, 2000.0, 1300.0, "finished")
    assert (line.priority, line.ttft_slo_ms, line.billing_tier) == ("HIGH", 500.0, "premium")
    assert (line.can_be_preempted, line.cost_budget) == (False, 2.0)
    assert len(line.blocks) == 2


def test_nothing_that_is_written_tells_a_user_or_a_prompt() -> None:
    heard = Heard()
    heard.request("a", user_id="alice", prompt="my secret")
    heard.request("b", user_id="alice", tags={"session": "alice"})
    heard.request("c", user_id="bob")
    heard.recorder.close()
    text = msgspec.json.encode(heard.lines).decode()
    assert not any(word in text for word in ("alice", "bob", "secret"))
    a, b, c = heard.lines
    assert a.user == b.user == b.session != c.user
    assert b.blocks == c.blocks


def test_prompts_that_begin_alike_have_their_first_blocks_in_common_and_no_others() -> None:
    heard = Heard()
    heard.request("a", prompt_token_ids=[1] * 32 + [2] * 20)
    heard.request("b", prompt_token_ids=[1] * 32 + [3] * 20)
    heard.recorder.close()
    a, b = (line.blocks for line in heard.lines)
    assert a[:2] == b[:2]
    assert not set(a[2:]) & set(b[2:])
    other = Heard()
    other.request("a", prompt_token_ids=[1] * 32)
    other.recorder.close()
    assert not set(a) & set(other.lines[0].blocks), "two recordings can be compared"


def test_prompts_are_written_when_that_is_asked_for() -> None:
    heard = Heard(prompts=True)
    heard.request("a", prompt="hello")
    heard.request("b", tokens=3)
    heard.recorder.close()
    assert [line.prompt for line in heard.lines] == ["hello", msgspec.UNSET]
    assert heard.lines[1].prompt_token_ids == [0, 1, 2]


def test_a_request_that_comes_back_is_one_request_with_its_first_token_from_the_first_attempt() -> None:
    heard = Heard()
    heard.request("a")
    heard.now_s += 1.0
    heard.ended("a", Outcome.RETURNED, first_token_ms=100.0, duration_ms=600.0)
    heard.now_s += 1.0
    failed = ErrorBody(code="unavailable", message="the worker died")
    heard.ended("a", Outcome.FAILED, error=failed)
    heard.now_s += 1.0
    heard.ended("a", usage=Usage(prompt_tokens=40, completion_tokens=9), first_token_ms=5.0, duration_ms=50.0)
    (line,) = heard.lines
    assert (line.ttft_ms, line.latency_ms, line.output_tokens) == (500.0, 3000.0, 9)


def test_what_was_cancelled_while_it_waited_ends_without_a_report() -> None:
    heard = Heard()
    heard.request("waits")
    heard.request("runs")
    heard.cancel("waits")
    heard.cancel("runs")
    heard.ended("runs", Outcome.CANCELLED, usage=Usage(prompt_tokens=40, completion_tokens=3))
    heard.recorder.tick()
    assert [line.output_tokens for line in heard.lines] == [3]
    heard.now_s += CANCEL_GRACE_S
    heard.recorder.tick()
    assert [line.outcome for line in heard.lines] == ["cancelled", "cancelled"]
    assert heard.recorder.open == 0


def test_a_dead_letter_is_a_failure() -> None:
    heard = Heard()
    heard.request("a")
    request = InferenceRequest(model="m", prompt="x")
    letter = DeadLetter(id="a", model="m", errors=[], failed_at=0.0, request=request)
    heard.recorder.on_dead_letter(Message("", "", encode(letter), {}))
    assert [line.outcome for line in heard.lines] == ["failed"]


def test_requests_without_an_id_are_known_by_their_size() -> None:
    heard = Heard()
    for tokens in (10, 20, 20):
        heard.request("", tokens=tokens)
    heard.ended("nats-8", Outcome.RETURNED, usage=Usage(prompt_tokens=20))
    heard.ended("nats-7", usage=Usage(prompt_tokens=10, completion_tokens=1))
    heard.ended("nats-9", usage=Usage(prompt_tokens=20, completion_tokens=3))
    heard.ended("nats-8", usage=Usage(prompt_tokens=20, completion_tokens=2))
    assert [(line.input_tokens, line.output_tokens) for line in heard.lines] == [(10, 1), (20, 3), (20, 2)]


def test_a_message_that_is_sent_twice_is_one_request_and_a_malformed_one_is_none() -> None:
    heard = Heard()
    heard.request("a")
    heard.request("a")
    heard.recorder.on_request(Message(subjects.requests("m"), "", b"{not json", {}))
    assert (heard.recorder.seen, heard.recorder.open, heard.recorder.malformed) == (1, 1, 1)


def test_memory_is_bounded_by_letting_the_oldest_go() -> None:
    heard = Heard(max_open_bytes=10_000)
    for i in range(100):
        heard.request(f"r{i}")
    assert heard.recorder.open < 12
    heard.recorder.close()
    assert len(heard.lines) == 100
    assert heard.recorder.outcomes == {"unknown": 100}


@pytest.mark.parametrize("payload", [b"", b"\xff", b'{"ids": 3}'])
def test_messages_that_cannot_be_read_do_no_harm(payload: bytes) -> None:
    heard = Heard()
    for handler in (heard.recorder.on_report, heard.recorder.on_cancel, heard.recorder.on_dead_letter):
        handler(Message("", "", payload, {}))
    assert heard.recorder.open == 0


@pytest.mark.parametrize("name", ["trace.jsonl", "trace.jsonl.gz"])
def test_a_recording_can_be_read_while_it_grows_and_is_whole_at_the_end(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    line = RecordedRequest(arrival_s=1.0, input_tokens=2, output_tokens=3)
    with TraceFile(path) as file:
        file.write(line)
        file.flush()
        data = path.read_bytes()
        text = zlib.decompressobj(wbits=31).decompress(data) if name.endswith(".gz") else data
        assert msgspec.json.decode(text, type=RecordedRequest) == line
        file.write(line)
    assert len(read_trace(path)) == 2


@pytest.mark.parametrize(
    ("name", "said"), [("trace.csv", "must end in .jsonl or .jsonl.gz"), ("none/trace.jsonl", "cannot be written")]
)
def test_a_file_that_cannot_be_is_refused_at_once(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        TraceFile(tmp_path / name)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "trace.jsonl"
    with TraceFile(path) as file, Path("/dev/full").open("wb", buffering=0) as full:
        monkeypatch.setattr(file, "_file", full)
        file.write(RecordedRequest(arrival_s=1.0, input_tokens=2, output_tokens=3))
        with pytest.raises(Unavailable, match="cannot be written: No space left"):
            file.flush()


def test_the_next_turn_of_a_conversation_names_the_one_before_it(tmp_path: Path) -> None:
    heard = Heard()
    system, question, answer, more = [1] * 40, [2] * 13, [3] * 20, [4] * 9
    for name, prompt in (
        ("other", [*system, *[5] * 30]),
        ("first", [*system, *question]),
        ("second", [*system, *question, *answer, *more]),
        ("again", [*system, *question]),
        ("short", [2] * 3),
        ("shorter", [2] * 5),
    ):
        heard.request(name, prompt_token_ids=prompt)
        heard.now_s += 1.0
        heard.ended(name, usage=Usage(prompt_tokens=len(prompt), completion_tokens=20))
    other, first, second, again, short, shorter = heard.lines
    assert (other.continues, first.continues, again.continues, short.continues) == (None, None, None, None)
    assert (second.continues, shorter.continues) == (first.turn, short.turn)
    assert again.turn == first.turn != second.turn

    path = tmp_path / "trace.jsonl"
    with TraceFile(path) as file:
        for line in heard.lines:
            file.write(line)
    _, asked, followed, *_ = read_trace(path)
    assert len(first.blocks) == 3
    assert asked.blocks == followed.blocks[:4], "prompt and answer have 73 tokens"


def test_turns_are_forgotten_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "REMEMBERED", 2)
    seen = turns.Turns(16)
    oldest, _, latest = (seen.link([number] * 20, [number])[0] for number in (1, 2, 3))
    assert seen.link([3] * 21, [3])[1] == latest != oldest
    assert seen.link([1] * 21, [1])[1] is None
