"""`sagellm simulate` as a program."""

import json
import os
import subprocess
import sys
from pathlib import Path

TRACE = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(
    f"2023-11-16 18:{minute:02}:{second:02}.0000000,{100 + 37 * second},{10 + minute}\n"
    for minute in range(3)
    for second in range(60)
)


def simulate(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    trace = folder / "trace.csv"
    trace.write_text(TRACE)
    command = [sys.executable, "-m", "sagellm", "simulate", "--trace", str(trace), *arguments]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "MPLCONFIGDIR": str(folder)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


def test_json_is_one_object_and_the_same_every_time(tmp_path: Path) -> None:
    options = ("--ttft-slo-ms", "1000", "--mix", "long:0.1:3000:200", "--seed", "3", "--json")
    first, second = simulate(tmp_path, *options), simulate(tmp_path, *options)
    found = json.loads(first.stdout)
    assert first.stdout == second.stdout
    assert found["runs"][0]["classes"]["all"]["requests"] == 180
    assert found["attainment"].keys() == {"all", "chat", "long"}


def test_find_goodput_tells_the_rate_and_attainment_by_class_and_draws_it(tmp_path: Path) -> None:
    picture = tmp_path / "goodput.png"
    done = simulate(tmp_path, "--ttft-slo-ms", "500", "--find-goodput", "0.9", "--json", "--png", str(picture))
    found = json.loads(done.stdout)
    assert found["goodput_rps"] > 1
    assert found["attainment"]["all"] >= 0.9
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_table_names_every_class(tmp_path: Path) -> None:
    shown = simulate(tmp_path, "--mix", "long:0.2:900:9", "--png", str(tmp_path / "run.png")).stdout
    assert all(f"│ {kind} " in shown for kind in ("chat", "long", "all"))


def test_a_mistake_is_one_sentence(tmp_path: Path) -> None:
    done = simulate(tmp_path, "--policy", "best")
    assert done.returncode == 1
    assert done.stderr.startswith("sagellm: there is no policy called 'best'; choose one of ")
