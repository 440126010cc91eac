"""`sagellm up` as a child process of the tests, and what they ask of it."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

NATS_TOKEN = "2-for-these-tests"  # begins with a digit: configuration files read those in their own way
START_TIMEOUT_S = 120
STOP_TIMEOUT_S = 60


class Ready(msgspec.Struct):
    """The line that `--json-ready` prints."""

    url: str
    model: str
    nats_url: str
    pids: dict[str, int]


class RunningPipeline:
    """A `sagellm up` that is ready."""

    def __init__(self, process: subprocess.Popen[str], log: list[str], ready: Ready) -> None:
        self.process = process
        self.log = log
        self.url, self.model, self.nats_url = ready.url, ready.model, ready.nats_url
        self.pids = ready.pids

    def kill(self, name: str) -> None:
        """SIGKILL to the first process of that name."""
        os.kill(self.pids[name], signal.SIGKILL)

    def leading_scheduler(self) -> str:
        """The name of the scheduler that said last that it leads."""
        return next(line for line in reversed(self.log) if "leading in term" in line).split()[0]

    def stop(self) -> int:
        """SIGTERM; the exit code once all has drained."""
        self.process.terminate()
        return self.process.wait(STOP_TIMEOUT_S)


def environment() -> dict[str, str]:
    """Ours, in which a child finds the packages where this process finds them."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "SAGELLM_NATS_TOKEN": NATS_TOKEN}


def sagellm(
    *arguments: str, stdin: str = "", timeout_s: float = START_TIMEOUT_S
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "sagellm", *arguments],
        env=environment(),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


@contextlib.contextmanager
def running_pipeline(state_dir: Path, *arguments: str) -> Iterator[RunningPipeline]:
    """`sagellm up` with a state folder and a port of its own."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "sagellm", "up", "--port", "0", "--state-dir", str(state_dir)),
            *("--json-ready", "--no-ask", *arguments),
        ],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    log: list[str] = []
    reader = threading.Thread(target=log.extend, args=(process.stderr,), daemon=True)
    reader.start()
    watchdog = threading.Timer(START_TIMEOUT_S, process.kill)
    watchdog.start()
    try:
        line = process.stdout.readline()
        assert line, "sagellm up ended before it was ready:\n" + "".join(log)
        watchdog.cancel()
        yield RunningPipeline(process, log, msgspec.json.decode(line, type=Ready))
    finally:
        watchdog.cancel()
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        reader.join()
        process.stdout.close()
        process.stderr.close()


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def wait_until_gone(pids: list[int], timeout_s: float = 20) -> list[int]:
    """Those of `pids` that still run after the timeout."""
    deadline = time.monotonic() + timeout_s
    while (left := [pid for pid in pids if alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left
