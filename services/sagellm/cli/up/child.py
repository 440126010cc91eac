"""One service as a child process: its output is passed on, and it is started again when it crashes."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping

from sagellm.cli.exits import EXIT_REFUSED
from sagellm.process import bound_to_parent
from sagellm_schemas import SageError

from .output import Output

FIRST_DELAY_S = 0.2
LONGEST_DELAY_S = 10.0
SETTLED_S = 30.0
"""A child that lived this long is started again as if it had never crashed."""
LONGEST_LINE_BYTES = 1 << 20
SENTENCE = "sagellm: "


class ChildRefused(SageError):
    """A child said that it cannot run like this. The message is its own sentence."""

    code = "child_refused"


class Child:
    """A service that is kept running until `stop`."""

    def __init__(self, name: str, arguments: list[str], environment: Mapping[str, str], output: Output) -> None:
        """`arguments` are those of `sagellm`; `environment` is added to ours, and may hold secrets."""
        self.name = name
        self.environment = dict(environment)
        self.first_line: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """The first line that it prints on stdout."""
        self._arguments = arguments
        self._output = output
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._ended = asyncio.Event()
        self._sentence = ""

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def run(self) -> None:
        """Run it, and again whenever it crashes, until it is stopped.

        Raises:
            ChildRefused: it cannot run with its settings; starting it again would not help.
        """
        delay_s = FIRST_DELAY_S
        loop = asyncio.get_running_loop()
        try:
            while not self._stopping.is_set():
                started = loop.time()
                code = await self._run_once()
                if self._stopping.is_set():
                    return
                if code == 0:
                    self._output.say(f"{self.name} has left, as it was told")
                    return
                if code == EXIT_REFUSED:
                    raise ChildRefused(self._sentence or f"{self.name} refuses to run; its log says why")
                if loop.time() - started > SETTLED_S:
                    delay_s = FIRST_DELAY_S
                self._output.say(f"{self.name} {_ending(code)}; starting it again in {delay_s:g} s")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), delay_s)
                delay_s = min(2 * delay_s, LONGEST_DELAY_S)
        finally:
            self._kill()
            self._ended.set()

    async def stop(self, grace_s: float) -> None:
        """SIGTERM, and SIGKILL after `grace_s`; returns when `run` has ended."""
        self._stopping.set()
        self._signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._ended.wait(), grace_s)
        except TimeoutError:
            self._output.say(f"{self.name} has not stopped within {grace_s:g} s: killing it")
            self._kill()
            await self._ended.wait()

    async def _run_once(self) -> int:
        self._process = process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "sagellm",
            *self._arguments,
            env=os.environ | self.environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=LONGEST_LINE_BYTES,
            preexec_fn=bound_to_parent(signal.SIGKILL),
        )
        if self._stopping.is_set():
            self._signal(signal.SIGTERM)
        assert process.stdout is not None
        assert process.stderr is not None
        await asyncio.gather(self._read_stdout(process.stdout), self._read_stderr(process.stderr))
        return await process.wait()

    async def _read_stdout(self, stream: asyncio.StreamReader) -> None:
        async for line in _lines(stream):
            if not self.first_line.done():
                self.first_line.set_result(line)

    async def _read_stderr(self, stream: asyncio.StreamReader) -> None:
        async for line in _lines(stream):
            if line.startswith(SENTENCE):
                self._sentence = line.removeprefix(SENTENCE)
            else:
                self._output.line(self.name, line)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def _kill(self) -> None:
        self._signal(signal.SIGKILL)


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[str]:
    """Lines of any length: an over-long one comes in pieces."""
    while True:
        try:
            line = await stream.readuntil()
        except asyncio.IncompleteReadError as error:
            line = error.partial
        except asyncio.LimitOverrunError as error:
            line = await stream.readexactly(error.consumed)
        if not line:
            return
        yield line.decode(errors="replace").rstrip()


def _ending(code: int) -> str:
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
