"""The servers of a comparison: `sagellm up` and vLLM's, each a child process for as long as a context is open."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

VLLM_ENVIRONMENT = {
    # Of the CPU build: it would keep one core back, and is slower; and take half of the memory.
    "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
    "VLLM_CPU_KVCACHE_SPACE": "2",
}
VLLM_START_S = 600
STOP_S = 60


@contextlib.contextmanager
def sagellm_up(
    model: str, state: Path, arguments: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Iterator[dict[str, Any]]:
    """`sagellm up` with more arguments and variables; yields what it says when it is ready. Logs into `state`."""
    command = [sys.executable, "-m", "sagellm", "up", "--model", model]
    command += ["--port", "0", "--state-dir", str(state), "--json-ready", *arguments]
    state.mkdir(exist_ok=True)
    with _child(command, state / "up.log", environment or {}) as process:
        assert process.stdout is not None
        line = next((line for line in process.stdout if line.startswith(b'{"url"')), None)
        if line is None:
            sys.exit(f"sagellm up did not start: {(state / 'up.log').read_text()[-2000:]}")
        yield json.loads(line)


@contextlib.contextmanager
def vllm_server(python: str, folder: Path, dtype: str, log: Path) -> Iterator[str]:
    """vLLM's OpenAI server from the environment of that interpreter; yields its URL. Takes minutes to start."""
    port = _free_port()
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--dtype", dtype]
    command += ["--served-model-name", folder.name, "--host", "127.0.0.1", "--port", str(port)]
    variables = {name: value for name, value in VLLM_ENVIRONMENT.items() if name not in os.environ}
    with _child(command, log, variables | {"PYTHONPATH": ""}) as process:
        url = f"http://127.0.0.1:{port}"
        deadline_s = time.monotonic() + VLLM_START_S
        while not _healthy(url):
            if process.poll() is not None or time.monotonic() > deadline_s:
                sys.exit(f"vLLM did not start: {log.read_text()[-2000:]}")
            time.sleep(1)
        yield url


@contextlib.contextmanager
def _child(command: list[str], log: Path, environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a session of its own, stopped with everything it has started."""
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE if "--json-ready" in command else errors,
            stderr=errors,
            env=os.environ | environment,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _healthy(url: str) -> bool:
    try:
        with urlopen(f"{url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
