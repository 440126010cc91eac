"""The wire path alone: streaming chat through ingress, NATS, scheduler and mock workers, loaded by wrk.

    python ops/bench/http_path.py --model smollm2-135m-instruct --json docs/benchmarks/http-path.json

Starts `sagellm up --engine mock` with no delay, then runs wrk (it must be installed) at each number of
connections, several times. Beside requests/s it reports the CPU time of each service per request, and how much of
the machine other processes took meanwhile: a run beside other work says little.

Time to first token is measured by one client on one keep-alive connection, from before the request is written to
the first chunk with text.
"""

import argparse
import asyncio
import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httptools
from rich.console import Console
from rich.progress import track
from rich.table import Table
from servers import sagellm_up

SCRIPT = Path(__file__).with_name("wrk_chat.lua")
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure, print, save."""
    arguments = _arguments()
    check_wrk()
    with (
        tempfile.TemporaryDirectory() as state,
        sagellm_up(arguments.model, Path(state), ["--engine", "mock", *arguments.up]) as ready,
    ):
        runs = [(c, i) for c in arguments.connections for i in range(arguments.repeat + 1)]
        results = [
            {"warm_up": i == 0, **load_with_wrk(ready, arguments.model, arguments.tokens, c, arguments.seconds)}
            for c, i in track(runs, description="wrk", transient=True)
        ]
        ttft_ms = [asyncio.run(_ttft_ms(ready, arguments)) for _ in range(arguments.repeat)]
    report = {
        "machine": machine(),
        "model": arguments.model,
        "tokens": arguments.tokens,
        "runs": results,
        "ttft_ms": ttft_ms,
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    _show(report, arguments)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct", help="whose tokenizer is used")
    parser.add_argument("--tokens", type=int, default=64, help="output tokens of each request")
    parser.add_argument("--connections", type=int, nargs="+", default=[64])
    parser.add_argument("--seconds", type=int, default=5, help="length of each run")
    parser.add_argument("--repeat", type=int, default=5, help="counted runs, after one to warm up")
    parser.add_argument("--ttft-requests", type=int, default=300, help="requests of each TTFT run")
    parser.add_argument("--up", nargs=argparse.REMAINDER, default=[], help="more arguments for `sagellm up`")
    parser.add_argument("--json", type=Path, help="where to write all figures")
    return parser.parse_args()


def check_wrk() -> None:
    """End with a sentence if wrk is missing."""
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed; on Debian: apt-get install wrk")


def load_with_wrk(
    ready: dict[str, Any], model: str, tokens: int, connections: int, seconds: int
) -> dict[str, Any]:
    """One run of wrk: requests/s, each service's CPU time per request, and how busy the machine was."""
    pids = {name: pid for name, pid in ready["pids"].items() if pid} | {"nats": _nats_pid(ready["pids"])}
    before, busy_before_s = {name: _cpu_s(pid) for name, pid in pids.items()}, _machine_cpu_s()
    started = time.monotonic()
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}", "--latency", "-s", str(SCRIPT)]
    command += [ready["url"], "--", model, str(tokens)]
    usage = os.times()
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    wrk_s = sum(os.times()[2:4]) - sum(usage[2:4])
    busy = (_machine_cpu_s() - busy_before_s) / (time.monotonic() - started)
    if "Non-2xx" in output or "Socket errors" in output:
        sys.exit(f"wrk saw errors:\n{output}")
    requests = int(_found(r"(\d+) requests in", output))
    ours = {name: _cpu_s(pid) - before[name] for name, pid in pids.items()}
    share = (sum(ours.values()) + wrk_s) / (time.monotonic() - started)
    return {
        "connections": connections,
        "requests_per_s": float(_found(r"Requests/sec:\s*([\d.]+)", output)),
        "cpu_us_per_request": {name: round(s / requests * 1e6) for name, s in ours.items()},
        "cores_busy": round(busy, 2),
        "cores_busy_elsewhere": round(max(0.0, busy - share), 2),
    }


async def _ttft_ms(ready: dict[str, Any], arguments: argparse.Namespace) -> list[float]:
    """Times to first token of consecutive requests on one connection, in ms."""
    address = ready["url"].removeprefix("http://")
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    times = []
    for i in range(arguments.ttft_requests):
        body = json.dumps(
            {
                "model": arguments.model,
                "stream": True,
                "max_tokens": arguments.tokens,
                "messages": [{"role": "user", "content": f"Question {i}: what is the capital of France?"}],
            }
        ).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n"
        started = time.perf_counter()
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        times.append((await _answer(reader, started)) * 1e3)
    writer.close()
    return times


async def _answer(reader: asyncio.StreamReader, started: float) -> float:
    """Read one whole response; returns the seconds from `started` to the first chunk with text."""
    first: list[float] = []
    done: list[bool] = []

    class Protocol:
        def on_body(self, data: bytes) -> None:
            if not first and re.search(rb'"content":"[^"]', data):
                first.append(time.perf_counter() - started)

        def on_message_complete(self) -> None:
            done.append(True)

    parser = httptools.HttpResponseParser(Protocol())
    while not done:
        parser.feed_data(await reader.read(1 << 16))
    return first[0]


def _cpu_s(pid: int) -> float:
    """CPU seconds of all threads, as the kernel's scheduler counts them: its clock ticks miss short turns."""
    total_ns = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):
            total_ns += int((task / "schedstat").read_text().split()[0])
    return total_ns / 1e9


def _machine_cpu_s() -> float:
    """Time that all cores together were busy so far."""
    user, nice, system, _, _, irq, softirq, *_ = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    )
    return (user + nice + system + irq + softirq) * TICK_S


def _nats_pid(pids: dict[str, int]) -> int:
    """The embedded server is a child of the same `sagellm up` as the services."""
    some = next(pid for pid in pids.values() if pid)
    parent = Path(f"/proc/{some}/stat").read_text().rsplit(")", 1)[1].split()[1]
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return next(int(c) for c in children if b"nats-server" in Path(f"/proc/{c}/cmdline").read_bytes())


def machine() -> dict[str, Any]:
    """The CPU, how many cores, and the Python."""
    model = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        "unknown",
    )
    return {"cpu": model, "cores": os.cpu_count(), "python": sys.version.split()[0]}


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        sys.exit(f"wrk printed something unexpected:\n{text}")
    return match[1]


def _show(report: dict[str, Any], arguments: argparse.Namespace) -> None:
    table = Table(title=f"{arguments.tokens} streamed tokens, mock engine with no delay")
    for column in ("connections", "requests/s", "min-max", "CPU µs per request", "cores busy elsewhere"):
        table.add_column(column)
    for connections in arguments.connections:
        runs = [r for r in report["runs"] if r["connections"] == connections and not r["warm_up"]]
        rates = [r["requests_per_s"] for r in runs]
        names = runs[0]["cpu_us_per_request"]
        cpu = ", ".join(f"{n} {statistics.median(r['cpu_us_per_request'][n] for r in runs):.0f}" for n in names)
        elsewhere = statistics.median(r["cores_busy_elsewhere"] for r in runs)
        spread = f"{min(rates):.0f}-{max(rates):.0f}"
        table.add_row(str(connections), f"{statistics.median(rates):.0f}", spread, cpu, f"{elsewhere:.2f}")
    console = Console()
    console.print(table)
    medians = [statistics.median(run) for run in report["ttft_ms"]]
    console.print(
        f"TTFT on one connection: p50 {statistics.median(medians):.2f} ms ({[round(m, 2) for m in medians]})"
    )


if __name__ == "__main__":
    main()
