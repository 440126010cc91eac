"""`sagellm bench engine` beside peers, as a program."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

VLLM = f"""#!{sys.executable}
import json, os, sys
setup = json.loads(sys.stdin.readline())
print(json.dumps({{"ready": {{"version": "7", "spins": os.environ.get("GOMP_SPINCOUNT"), **setup}}}}), flush=True)
for line in sys.stdin:
    load = json.loads(line)
    timing = {{"sent_s": 1.0, "arrivals_s": [1.5, 1.7], "output_tokens": load["output_tokens"]}}
    print(json.dumps({{"duration_s": 2.0, "timings": [timing for _ in load["prompts"]]}}), flush=True)
"""


def bench(model: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [
            *(sys.executable, "-m", "sagellm", "bench", "engine", "--engine", "mock", "--model", str(model)),
            *("--concurrency", "1,2", "--repeat", "2", "--input-tokens", "7", "--output-tokens", "4"),
            *("--vocab-size", "260", "--threads", "1", *arguments),
        ],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture
def vllm(tmp_path: Path) -> str:
    path = tmp_path / "python"
    path.write_text(VLLM)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return f"vllm={path}"


def test_peers_answer_the_same_prompts_in_one_table_and_one_file(tiny: Path, vllm: str, tmp_path: Path) -> None:
    results = tmp_path / "bench.json"
    result = bench(tiny, "--compare", vllm, "--compare", "transformers", "--json", str(results))
    assert result.returncode == 0, result.stderr
    for line in ("engine / vllm at 2 streams", "engine / transformers at 1 streams"):
        assert line in result.stdout
    found = json.loads(results.read_text())
    shapes = [(r["label"], r["concurrency"], r["median"]["requests"]) for r in found["results"]]
    assert shapes == [(label, c, 4 * c) for c in (1, 2) for label in ("engine", "vllm", "transformers")]
    assert {r["median"]["errors"] for r in found["results"]} == {0}
    assert all(s["prompt_tokens"] == 7 for r in found["results"] for run in r["runs"] for s in run["samples"])
    _, theirs, hugging_face = found["targets"]
    assert theirs == {
        "label": "vllm",
        "version": "7",
        "spins": os.environ.get("GOMP_SPINCOUNT"),  # how our threads wait is no setting for a peer
        "model": str(tiny),
        "dtype": "bfloat16",
        "threads": 1,
        "max_streams": 2,
        "max_tokens": 11,
    }
    assert hugging_face["version"].startswith("5")


@pytest.mark.parametrize(
    ("compare", "message"),
    [
        (
            ["sglang"],
            "--compare takes transformers, vllm, llamacpp, or one of them =/path/to/python, not 'sglang'",
        ),
        (["vllm=/no/python"], "--compare vllm=/no/python: No such file or directory"),
        (["llamacpp"], "llama.cpp runs GGUF files, and {model} is none"),
        (["vllm", "vllm=/other/python"], "--compare names each peer once"),
    ],
)
def test_a_peer_that_cannot_run_is_one_sentence(tiny: Path, compare: list[str], message: str) -> None:
    result = bench(tiny, *(argument for text in compare for argument in ("--compare", text)))
    assert result.returncode != 0
    assert result.stderr == f"sagellm: {message.format(model=tiny)}\n"
