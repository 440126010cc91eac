"""Peers in processes of their own."""

import os
import stat
import sys
from pathlib import Path

import pytest

from sagellm.cli.bench.peer import Peer, parse_peer, peer_target
from sagellm.cli.bench.peer_programs.protocol import Setup
from sagellm.cli.bench.prompts import Prompts
from sagellm.cli.bench.targets import Shape
from sagellm_schemas import InvalidRequest, SageError

SETUP: Setup = {"model": "/m", "dtype": "bfloat16", "threads": 2, "max_streams": 4, "max_tokens": 20}
SHAPE = Shape(requests=3, concurrency=2, output_tokens=6)

ANSWERS = """
setup = json.loads(sys.stdin.readline())
print(json.dumps({"ready": {"version": "1.0", "setup": setup, "path": os.environ.get("PYTHONPATH")}}), flush=True)
for line in sys.stdin:
    load = json.loads(line)
    timing = {"sent_s": 1.0, "arrivals_s": [1.5, 1.7], "output_tokens": load["output_tokens"]}
    print(json.dumps({"duration_s": 2.0, "timings": [timing for _ in load["prompts"]]}), flush=True)
"""

FAKE_VLLM = """
import sys
print("a banner on standard output")
__version__ = "0.1"
class SamplingParams:
    def __init__(self, max_tokens, temperature, ignore_eos):
        self.max_tokens = max_tokens
class LLM:
    def __init__(self, model, dtype, max_model_len):
        self.llm_engine = self
        self.requests = {}
    def add_request(self, request_id, prompt, sampling):
        self.requests[request_id] = [0, sampling.max_tokens]
    def step(self):
        outputs = []
        for name, request in list(self.requests.items()):
            request[0] += 2
            answer = type("Answer", (), {"token_ids": [7] * min(request)})
            outputs.append(type("Output", (), {"request_id": name, "outputs": [answer]}))
            if request[0] >= request[1]:
                del self.requests[name]
        return outputs
"""


def interpreter(folder: Path, body: str) -> str:
    """Something that takes an interpreter's arguments and runs `body` instead."""
    path = folder / "python"
    path.write_text(f"#!{sys.executable}\nimport json, os, sys\n{body}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def prompts() -> Prompts:
    return Prompts("random", input_tokens=5, vocab_size=1000, seed=0)


async def complaint(peer: Peer) -> str:
    with pytest.raises(SageError) as raised:
        async with peer_target(peer, SETUP, dict(os.environ), None):
            pass
    return raised.value.message


async def test_a_peer_is_told_the_model_and_its_times_become_samples(tmp_path: Path) -> None:
    peer = Peer("vllm", interpreter(tmp_path, ANSWERS))
    async with peer_target(peer, SETUP, dict(os.environ), None) as target:
        assert target.describe() | {"path": None} == {
            "label": "vllm",
            "version": "1.0",
            "setup": SETUP,
            "threads": 2,
            "path": None,
        }
        run = await target.run(SHAPE, prompts())
    assert run.duration_s == 2.0
    assert [sample.error for sample in run.samples] == [None] * 3
    assert run.samples[0].ttft_ms == pytest.approx(500)
    assert (run.samples[0].prompt_tokens, run.samples[0].output_tokens) == (5, 6)


async def test_another_environment_does_not_see_the_modules_of_this_one(tmp_path: Path) -> None:
    variables = {**os.environ, "PYTHONPATH": "/ours"}
    async with peer_target(Peer("vllm", interpreter(tmp_path, ANSWERS)), SETUP, variables, None) as target:
        assert target.describe()["path"] is None


async def test_a_peer_that_dies_is_quoted(tmp_path: Path) -> None:
    python = interpreter(tmp_path, "sys.exit('first line\\nno more memory')")
    assert await complaint(Peer("vllm", python)) == "vllm ended unexpectedly: no more memory"


async def test_a_peer_that_dies_under_load_is_quoted(tmp_path: Path) -> None:
    dies = ANSWERS.replace("    load =", "    sys.exit('killed')\n    load =")
    async with peer_target(Peer("vllm", interpreter(tmp_path, dies)), SETUP, dict(os.environ), None) as target:
        with pytest.raises(SageError, match="vllm ended unexpectedly: killed"):
            await target.run(SHAPE, prompts())


async def test_an_interpreter_that_is_not_there_is_named() -> None:
    assert await complaint(Peer("vllm", "/no/python")) == "--compare vllm=/no/python: No such file or directory"


async def test_a_peer_that_is_not_installed_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "vllm.py").write_text("raise ImportError('no vllm here')")
    with pytest.raises(SageError) as raised:
        async with peer_target(Peer("vllm"), SETUP, {**os.environ, "PYTHONPATH": str(tmp_path)}, None):
            pass
    assert raised.value.message == "vLLM is not there: no vllm here"


async def test_what_a_library_prints_does_not_disturb_the_replies(tmp_path: Path) -> None:
    (tmp_path / "vllm.py").write_text(FAKE_VLLM)
    variables = {**os.environ, "PYTHONPATH": str(tmp_path)}
    async with peer_target(Peer("vllm"), SETUP, variables, None) as target:
        run = await target.run(SHAPE, prompts())
        again = await target.run(SHAPE, prompts())
    assert target.describe()["version"] == "0.1"
    assert [sample.output_tokens for sample in run.samples + again.samples] == [6] * 6
    assert [len(sample.itl_ms) for sample in run.samples] == [2] * 3


def test_a_peer_is_its_name_or_its_name_and_an_interpreter() -> None:
    assert parse_peer("transformers") == Peer("transformers", sys.executable)
    assert parse_peer("vllm=/a/b=c") == Peer("vllm", "/a/b=c")


@pytest.mark.parametrize("text", ["", "vllm=", "=/python", "sglang", "sglang=/python"])
def test_a_peer_that_we_do_not_know_is_refused_with_the_list(text: str) -> None:
    with pytest.raises(InvalidRequest, match="--compare takes transformers, vllm, llamacpp"):
        parse_peer(text)
