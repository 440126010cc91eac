"""A peer in a process of its own, perhaps in another Python environment, as a benchmark's target."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING

import msgspec

from sagellm_schemas import InvalidRequest, SettingsError, Unavailable

from .load import Run
from .peer_programs.protocol import Load, Setup
from .prompts import Prompts
from .sample import sample
from .targets import Shape

if TYPE_CHECKING:
    from sagellm_engine import Tokenizer

NAMES = ("transformers", "vllm", "llamacpp")
START = "import runpy, sys; sys.path.append(sys.argv[1]); runpy.run_module(sys.argv[2], run_name='__main__')"
"""How an interpreter that knows nothing of sageLLM runs a module of `peer_programs`, with relative imports. At the
end of the path the folder shadows nothing."""
LONGEST_REPLY_BYTES = 1 << 28
GOODBYE_S = 20.0


class Peer(msgspec.Struct, frozen=True):
    """What to compare with: one of `NAMES`, and the Python interpreter that can import it."""

    name: str
    python: str = sys.executable


class _Timing(msgspec.Struct):
    sent_s: float
    arrivals_s: list[float]
    output_tokens: int


class _Reply(msgspec.Struct):
    """A line of a peer's program; `peer_programs.protocol` has the forms."""

    ready: dict[str, object] | None = None
    duration_s: float = 0.0
    timings: list[_Timing] | None = None
    error: str | None = None


def parse_peer(text: str) -> Peer:
    """The peer of `NAME` or `NAME=PYTHON`.

    Raises:
        InvalidRequest: it is not of that form.
    """
    name, given, python = text.partition("=")
    if name not in NAMES or bool(given) != bool(python):
        raise InvalidRequest(f"--compare takes {', '.join(NAMES)}, or one of them =/path/to/python, not {text!r}")
    return Peer(name, python) if given else Peer(name)


class PeerTarget:
    """A peer that has loaded its model; `peer_target` makes it."""

    def __init__(
        self, label: str, process: asyncio.subprocess.Process, log: IO[bytes], tokenizer: "Tokenizer | None"
    ) -> None:
        self.label = label
        self.ready: dict[str, object] = {}
        self._process = process
        self._log = log
        self._tokenizer = tokenizer

    async def load(self, setup: Setup) -> None:
        """Let it load its model.

        Raises:
            Unavailable: it is not installed there, or cannot load it.
        """
        self.ready = {"threads": setup["threads"], **((await self._ask(setup)).ready or {})}

    async def run(self, shape: Shape, prompts: Prompts) -> Run:
        """See `Target`.

        Raises:
            Unavailable: the peer has died.
        """
        token_ids = [prompts.encoded(self._tokenizer) for _ in range(shape.requests)]
        load: Load = {
            "prompts": token_ids,
            "concurrency": min(shape.concurrency, shape.requests),
            "output_tokens": shape.output_tokens,
        }
        reply = await self._ask(load)
        samples = [
            sample(timing.sent_s, timing.arrivals_s, len(prompt), timing.output_tokens)
            for timing, prompt in zip(reply.timings or [], token_ids, strict=True)
        ]
        return Run(duration_s=reply.duration_s, samples=samples)

    def describe(self) -> dict[str, object]:
        """See `Target`."""
        return {"label": self.label, **self.ready}

    async def _ask(self, request: Setup | Load) -> _Reply:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(ConnectionError):  # one that has ended is found when its reply is read
            self._process.stdin.write(msgspec.json.encode(request) + b"\n")
            await self._process.stdin.drain()
        line = await self._process.stdout.readline()
        try:
            reply = msgspec.json.decode(line, type=_Reply)
        except msgspec.MsgspecError:
            raise Unavailable(f"{self.label} ended unexpectedly: {self._last_words()}") from None
        if reply.error is not None:
            raise Unavailable(reply.error)
        return reply

    def _last_words(self) -> str:
        """The last line of what it printed to standard error."""
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


@contextlib.asynccontextmanager
async def peer_target(
    peer: Peer, setup: Setup, environment: Mapping[str, str], tokenizer: "Tokenizer | None"
) -> AsyncIterator[PeerTarget]:
    """`peer` with its model loaded; its process ends with the context. `tokenizer` is for prompts that are text.

    Raises:
        Unavailable: it is not installed there, or cannot load the model.
        SettingsError: there is no such interpreter.
    """
    with tempfile.TemporaryFile() as log:
        process = await _spawn(peer, environment, log)
        try:
            target = PeerTarget(peer.name, process, log, tokenizer)
            await target.load(setup)
            yield target
        finally:
            await _end(process)


async def _spawn(peer: Peer, environment: Mapping[str, str], log: IO[bytes]) -> asyncio.subprocess.Process:
    # A vllm/ or transformers/ in the user's folder is not what is to be measured.
    variables = {**environment, "PYTHONSAFEPATH": "1"}
    if peer.python != sys.executable:
        variables.pop("PYTHONPATH", None)
    program = f"peer_programs.{peer.name}"
    try:
        return await asyncio.create_subprocess_exec(
            *(peer.python, "-c", START, str(Path(__file__).parent), program),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=variables,
            limit=LONGEST_REPLY_BYTES,
            start_new_session=True,  # so that what it has started can be ended with it
        )
    except OSError as error:
        raise SettingsError(f"--compare {peer.name}={peer.python}: {error.strerror}") from None


async def _end(process: asyncio.subprocess.Process) -> None:
    """End of input is the goodbye; whoever does not understand it is killed, with its children."""
    assert process.stdin is not None
    process.stdin.close()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(GOODBYE_S):
            await process.wait()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
