"""`SageEngine`: the engine behind the contract of `AsyncEngine`, stepping on a thread of its own.

Commands cross to the thread in order; outputs come back to the event loop once per step. Each command has a serial
number, and outputs say up to which one they had been obeyed, so nothing of an aborted request reaches its reader,
even if its id is in use again.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable

from sagellm_schemas import EngineError, EngineStats, InvalidRequest, SageError

from .contract import Emit, GenerateRequest, ServedModel, StepOutput
from .engine import Engine
from .engine_config import EngineConfig

log = logging.getLogger(__name__)

_Command = Callable[[Engine], list[StepOutput]]


class SageEngine:
    """An `AsyncEngine` that runs the model in this process."""

    def __init__(self, config: EngineConfig, build: Callable[[EngineConfig], Engine] = Engine) -> None:
        """`build` makes the engine, on its thread."""
        self._config = config
        self._build = build
        self._engine: Engine | None = None
        self._thread: threading.Thread | None = None
        self._wakeup = threading.Condition()
        self._commands: list[_Command] = []
        self._closing = False
        self._died = False
        self._serial = 0
        self._live: dict[str, int] = {}
        self._stats = EngineStats()
        self._watching_prefixes = False
        self._prefix_changes: dict[bytes, bool] = {}

    async def start(self, emit: Emit) -> ServedModel:
        """Load the model and begin stepping; see `AsyncEngine.start`."""
        assert self._thread is None, "an engine starts once"
        self._emit = emit
        self._loop = asyncio.get_running_loop()
        loaded: asyncio.Future[Engine] = self._loop.create_future()
        self._stopped = asyncio.Event()
        self._thread = threading.Thread(target=self._run, args=(loaded,), name="sagellm-engine", daemon=True)
        self._thread.start()
        self._engine = await loaded
        return ServedModel(
            card=self._engine.card,
            tokenizer_json=self._engine.tokenizer_json,
            max_concurrent_requests=self._config.max_num_seqs,
            prefix_block_size=self._config.block_size if self._config.enable_prefix_caching else 0,
            adapters=self._engine.adapters,
        )

    def generate(self, request: GenerateRequest) -> None:
        """Queue one request; see `AsyncEngine.generate`."""
        if self._engine is None or not self.healthy():
            raise EngineError("the engine is not running")
        self._engine.verify(request)
        if request.id in self._live:
            raise InvalidRequest(f"a request with id {request.id!r} is running already", param="id")
        self._live[request.id] = self._send(lambda engine: _add(engine, request))

    def abort(self, request_id: str) -> None:
        """Forget a request; unknown ids are ignored."""
        if self._live.pop(request_id, None) is not None:
            self._send(lambda engine: _abort(engine, request_id))

    def stats(self) -> EngineStats:
        """As of the latest step."""
        return self._stats

    def prefix_changes(self) -> dict[bytes, bool]:
        """As of the latest step; see `AsyncEngine.prefix_changes`."""
        with self._wakeup:
            self._watching_prefixes = True
            changes, self._prefix_changes = self._prefix_changes, {}
        return changes

    def healthy(self) -> bool:
        """Whether the engine's thread is up."""
        return (
            self._engine is not None and not self._closing and self._thread is not None and self._thread.is_alive()
        )

    async def close(self) -> None:
        """Stop after the step that runs, and free the model. Safe to call twice."""
        with self._wakeup:
            self._closing = True
            self._wakeup.notify()
        if self._thread is not None:
            await self._stopped.wait()
            self._thread.join()
        self._live.clear()
        self._engine = None

    def _send(self, command: _Command) -> int:
        with self._wakeup:
            self._serial += 1
            self._commands.append(command)
            self._wakeup.notify()
        return self._serial

    def _run(self, loaded: "asyncio.Future[Engine]") -> None:
        """The thread: load, then step until closed."""
        try:
            engine = self._build(self._config)
        except BaseException as error:
            failure = error if isinstance(error, SageError) else EngineError(f"the engine cannot start: {error}")
            failure.__cause__ = None if failure is error else error
            self._call(_settle, loaded, failure)
            self._call(self._stopped.set)
            return
        self._call(_settle, loaded, engine)
        try:
            self._step_until_closed(engine)
        except BaseException:
            log.exception("the engine's thread died")
            self._call(self._fail_all)
        finally:
            self._call(self._stopped.set)

    def _step_until_closed(self, engine: Engine) -> None:
        obeyed = 0
        while True:
            with self._wakeup:
                while not (self._commands or engine.has_work or self._closing):
                    self._wakeup.wait()
                if self._closing:
                    return
                commands, self._commands = self._commands, []
            outputs = [output for command in commands for output in command(engine)]
            obeyed += len(commands)
            if engine.has_work:
                outputs += engine.step()
            self._stats = engine.stats()
            if self._watching_prefixes:
                self._note_prefixes(engine.blocks.take_changes())
            if outputs:
                self._call(self._deliver, outputs, obeyed)

    def _note_prefixes(self, changes: dict[bytes, bool]) -> None:
        if changes:
            with self._wakeup:
                self._prefix_changes.update(changes)

    def _deliver(self, outputs: list[StepOutput], obeyed: int) -> None:
        current = [output for output in outputs if self._live.get(output.id, obeyed + 1) <= obeyed]
        for output in current:
            if output.finish_reason is not None or output.error is not None:
                self._live.pop(output.id, None)
        if current:
            self._emit(current)

    def _fail_all(self) -> None:
        self._died = True
        error = EngineError("the engine's thread died")
        outputs = [StepOutput(id=request_id, error=error) for request_id in self._live]
        self._live.clear()
        if outputs:
            self._emit(outputs)

    def _call(self, function: Callable[..., object], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            self._loop.call_soon_threadsafe(function, *arguments)


def _settle(future: "asyncio.Future[Engine]", result: Engine | SageError) -> None:
    if future.cancelled():
        return
    if isinstance(result, SageError):
        future.set_exception(result)
    else:
        future.set_result(result)


def _add(engine: Engine, request: GenerateRequest) -> list[StepOutput]:
    try:
        engine.add_request(request)
    except SageError as error:
        return [StepOutput(id=request.id, error=error)]
    except Exception as error:
        log.exception("request %s failed on entry", request.id)
        return [StepOutput(id=request.id, error=EngineError(f"the engine failed: {error}"))]
    return []


def _abort(engine: Engine, request_id: str) -> list[StepOutput]:
    engine.abort(request_id)
    return []
