"""From live traffic to a trace, from a worker to a cost model, and from both to what would have happened."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import pytest

from .pipeline import RunningPipeline, environment, running_pipeline, sagellm
from .streams import all_streams

TPOT_MS, TTFT_MS, SLOTS, REQUESTS, TOKENS = 25, 40, 4, 24, 16


@pytest.fixture(scope="module")
def slow_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPipeline]:
    """One mock worker that runs few requests at once, in known times that nothing else comes near."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAGELLM_MAX_NUM_SEQS", str(SLOTS))
        patch.setenv("SAGELLM_POLICY", "fifo")
        mock = ("--engine", "mock", "--model", "mock")
        times = ("--mock-tpot-ms", str(TPOT_MS), "--mock-ttft-ms", str(TTFT_MS))
        with running_pipeline(tmp_path_factory.mktemp("state"), *mock, *times) as running:
            yield running


class Recording:
    """A `sagellm record` that records."""

    def __init__(self, process: subprocess.Popen[str], path: Path) -> None:
        self.process = process
        self.path = path
        self.summary: dict[str, object] = {}

    def end(self) -> None:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    @property
    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.path.read_text().splitlines()]


@contextmanager
def recording(pipeline: RunningPipeline, path: Path, *options: str) -> Iterator[Recording]:
    """Records while the context lasts, then until what has arrived has ended."""
    arguments = ("record", "--json", "--out", str(path), "--nats-url", pipeline.nats_url, *options)
    process = subprocess.Popen(
        [sys.executable, "-m", "sagellm", *arguments],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        assert process.stderr.readline().startswith("recording to")
        found = Recording(process, path)
        yield found
        found.end()
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        found.summary = json.loads(output)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def test_simulated_latencies_are_those_that_were_measured(slow_pipeline: RunningPipeline, tmp_path: Path) -> None:
    """Six times as many requests as there are slots: without batching everything would take four times as long,
    without a queue the median request a third."""
    trace, cost = tmp_path / "trace.jsonl", tmp_path / "cost.json"
    calibrated = sagellm(
        *("bench", "calibrate", "--nats-url", slow_pipeline.nats_url, "--out", str(cost)),
        *("--max-batched-tokens", "256", "--repeat", "1", "--json"),
    )
    assert calibrated.returncode == 0, calibrated.stderr
    assert json.loads(calibrated.stdout)["warning"] == ""
    with recording(slow_pipeline, trace) as recorded:
        prompts = [f"Question number {i}, please." for i in range(REQUESTS)]
        asyncio.run(all_streams(slow_pipeline.url, slow_pipeline.model, prompts, TOKENS))
    simulated = sagellm("simulate", "--trace", str(trace), "--cost-model", str(cost), "--json")
    assert simulated.returncode == 0, simulated.stderr

    lines = recorded.lines
    found = json.loads(simulated.stdout)["runs"][0]["classes"]["all"]
    assert recorded.summary["outcomes"] == {"finished": REQUESTS}
    assert recorded.summary["missed"] == 0
    assert found["finished"] == REQUESTS
    for name, real in (
        ("latency_ms", median(line["latency_ms"] for line in lines)),
        ("ttft_ms", median(line["ttft_ms"] for line in lines)),
        ("tpot_ms", median((line["latency_ms"] - line["ttft_ms"]) / (TOKENS - 1) for line in lines)),
    ):
        print(f"{name}: simulated {found[name]['p50']:.1f}, measured {real:.1f}")
        assert 0.7 < found[name]["p50"] / real < 1.4, name


def test_ctrl_c_waits_for_the_answers_under_way_and_takes_no_more(
    slow_pipeline: RunningPipeline, tmp_path: Path
) -> None:
    path = tmp_path / "trace.jsonl"
    with recording(slow_pipeline, path) as recorded:
        prompts = ["zebras", "quaggas"]
        url, model = slow_pipeline.url, slow_pipeline.model
        asyncio.run(all_streams(url, model, prompts, 40, pieces=2, in_the_middle=recorded.end))
    assert [(line["outcome"], line["output_tokens"]) for line in recorded.lines] == [("finished", 40)] * 2
    assert not any("zebras" in str(line) or "quaggas" in str(line) for line in recorded.lines)


def test_a_file_that_is_there_is_not_overwritten(slow_pipeline: RunningPipeline, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text("precious")
    done = sagellm("record", "--out", str(path), "--nats-url", slow_pipeline.nats_url)
    assert done.returncode == 1
    assert "is there already" in done.stderr
    assert path.read_text() == "precious"


def test_a_worker_that_has_work_is_not_calibrated(slow_pipeline: RunningPipeline) -> None:
    refused: list[subprocess.CompletedProcess[str]] = []

    def calibrate() -> None:
        refused.append(sagellm("bench", "calibrate", "--nats-url", slow_pipeline.nats_url))

    asyncio.run(
        all_streams(slow_pipeline.url, slow_pipeline.model, ["x"], 200, pieces=20, in_the_middle=calibrate)
    )
    assert refused[0].returncode == 1
    assert "has work; calibrate one that nobody uses" in refused[0].stderr
