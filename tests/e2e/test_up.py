"""`sagellm up` as its user sees it."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from openai import OpenAI

from .conftest import MOCK
from .pipeline import NATS_TOKEN, RunningPipeline, environment, running_pipeline, sagellm, wait_until_gone
from .streams import all_streams


def test_the_first_question_is_answered_on_the_screen(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "sagellm",
            "up",
            *MOCK,
            "--port",
            "0",
            "--state-dir",
            str(tmp_path),
            "--json-ready",
        ],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None

    answer = process.stdout.readline()
    assert process.stdout.readline().startswith('{"url": "http://127.0.0.1:')
    process.send_signal(signal.SIGINT)
    _, log = process.communicate(timeout=60)

    assert answer.startswith("The quick brown fox")
    assert process.returncode == 0
    assert "curl -N http://127.0.0.1:" in log
    assert "stopped" in log
    assert NATS_TOKEN not in log


def test_the_openai_client_and_our_chat_are_answered(mock_pipeline: RunningPipeline) -> None:
    client = OpenAI(base_url=f"{mock_pipeline.url}/v1", api_key="none")
    completion = client.chat.completions.create(
        model=mock_pipeline.model, messages=[{"role": "user", "content": "Hello"}], max_tokens=9
    )
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 9

    chat = sagellm("chat", "--url", mock_pipeline.url, "--max-tokens", "9", "Hello")
    assert chat.stdout.strip() == (completion.choices[0].message.content or "").strip()


def test_a_conversation_goes_on_until_exit(mock_pipeline: RunningPipeline) -> None:
    lines = "/help\nHello\n/reset\nHello again\n/exit\nnever asked\n"
    chat = sagellm("chat", "--url", mock_pipeline.url, "--max-tokens", "9", stdin=lines)
    assert chat.returncode == 0
    assert chat.stdout.count("The quick brown fox") == 2


def test_a_benchmark_of_the_server_counts_every_token(mock_pipeline: RunningPipeline, tmp_path: Path) -> None:
    result = sagellm(
        *("bench", "serve", "--url", mock_pipeline.url, "--concurrency", "2", "--requests", "4", "--repeat", "1"),
        *("--input-tokens", "16", "--output-tokens", "8", "--vocab-size", "300"),
        *("--json", str(tmp_path / "bench.json"), "--png", str(tmp_path / "bench.png")),
    )
    assert result.returncode == 0, result.stderr
    assert '"output_tokens": 8' in (tmp_path / "bench.json").read_text()
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_an_unknown_model_is_one_sentence(tmp_path: Path) -> None:
    result = sagellm("up", "--model", "no-such-model", "--port", "0", "--state-dir", str(tmp_path))
    assert result.returncode == 1
    assert result.stderr.startswith("sagellm: there is no model 'no-such-model'")
    assert result.stderr.count("\n") == 1


def test_a_port_in_use_is_one_sentence_and_nothing_stays_behind(
    mock_pipeline: RunningPipeline, tmp_path: Path
) -> None:
    port = mock_pipeline.url.rpartition(":")[2]
    result = sagellm("up", *MOCK, "--port", port, "--state-dir", str(tmp_path))
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith(f"sagellm: cannot listen on 127.0.0.1:{port}")
    assert not (tmp_path / "nats.env").exists()


def test_a_state_folder_in_use_is_one_sentence(mock_pipeline: RunningPipeline, tmp_path: Path) -> None:
    with running_pipeline(tmp_path, *MOCK):
        result = sagellm("up", *MOCK, "--port", "0", "--state-dir", str(tmp_path))
    assert result.returncode == 1
    assert "another sageLLM uses the state folder" in result.stderr


async def test_sigterm_lets_running_streams_finish(tmp_path: Path) -> None:
    with running_pipeline(tmp_path, *MOCK, "--mock-tpot-ms", "20") as running:
        texts = await all_streams(
            running.url,
            running.model,
            ["one", "two", "three"],
            max_tokens=60,
            pieces=3,
            in_the_middle=running.process.terminate,
        )
        assert await asyncio.to_thread(running.process.wait, 60) == 0
    assert len(set(texts)) == 1
    assert not wait_until_gone(list(running.pids.values()), timeout_s=0)


def test_children_that_die_are_started_again(tmp_path: Path) -> None:
    with running_pipeline(tmp_path, *MOCK) as running:
        for name in running.pids:
            running.kill(name)
        client = OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=60)
        completion = client.chat.completions.create(
            model=running.model, messages=[{"role": "user", "content": "Are you still there?"}], max_tokens=4
        )
        assert completion.choices[0].finish_reason == "length"
    log = "".join(running.log)
    for name in running.pids:
        assert f"{name} was killed by SIGKILL; starting it again" in log


def test_nothing_outlives_up_when_it_is_killed(tmp_path: Path) -> None:
    with running_pipeline(tmp_path, *MOCK) as running:
        pid = running.process.pid
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        assert len(children) == 4  # NATS, ingress, scheduler, worker
        os.kill(pid, signal.SIGKILL)
        assert not wait_until_gone(children)


@pytest.mark.parametrize("engine", ["mock", "sagellm"])
def test_the_demo_shows_every_answer_and_leaves(engine: str, tmp_path: Path, smollm2_gguf: Path) -> None:
    result = sagellm("demo", "--engine", engine, "--state-dir", str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert "CRITICAL" in result.stdout
    assert "waits" not in result.stdout
