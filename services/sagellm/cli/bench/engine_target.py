"""The engine in this process as a benchmark's target: the same load without services or HTTP."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator

from sagellm.settings import Settings
from sagellm.worker.engines import make_engine
from sagellm_engine import AsyncEngine, GenerateRequest, StepOutput, Tokenizer
from sagellm_schemas import SageError, SamplingParams

from .load import Run
from .prompts import Prompts
from .sample import Sample, sample
from .targets import Shape


class EngineTarget:
    """A started engine; `engine_target` makes it."""

    label = "engine"

    def __init__(self, engine: AsyncEngine, description: dict[str, object]) -> None:
        self.engine = engine
        self.tokenizer: Tokenizer | None = None
        self._description = description
        self._watched: dict[str, _Watched] = {}
        self._next_id = 0

    async def run(self, shape: Shape, prompts: Prompts) -> Run:
        """See `Target`."""
        sampling = SamplingParams(max_tokens=shape.output_tokens, temperature=0.0, ignore_eos=True)
        queue = iter([prompts.encoded(self.tokenizer) for _ in range(shape.requests)])
        samples: list[Sample] = []
        started_s = time.perf_counter()
        async with asyncio.TaskGroup() as clients:
            for _ in range(min(shape.concurrency, shape.requests)):
                clients.create_task(self._client(queue, sampling, samples))
        return Run(duration_s=time.perf_counter() - started_s, samples=samples)

    def describe(self) -> dict[str, object]:
        """See `Target`."""
        return self._description

    def emit(self, outputs: list[StepOutput]) -> None:
        """The engine's outputs of one step."""
        now_s = time.perf_counter()
        for output in outputs:
            if output.id in self._watched:
                self._watched[output.id].take(output, now_s)

    async def _client(self, queue: Iterator[list[int]], sampling: SamplingParams, samples: list[Sample]) -> None:
        for token_ids in queue:
            self._next_id += 1
            request = GenerateRequest(id=str(self._next_id), sampling=sampling, prompt_token_ids=token_ids)
            watched = self._watched[request.id] = _Watched(len(token_ids))
            try:
                self.engine.generate(request)
                samples.append(await watched.ended)
            except SageError as error:
                samples.append(Sample(error=error.message))
            finally:
                del self._watched[request.id]


class _Watched:
    """One request's outputs so far."""

    def __init__(self, prompt_tokens: int) -> None:
        self.ended: asyncio.Future[Sample] = asyncio.get_running_loop().create_future()
        self._prompt_tokens = prompt_tokens
        self._sent_s = time.perf_counter()
        self._arrivals_s: list[float] = []
        self._tokens = 0

    def take(self, output: StepOutput, now_s: float) -> None:
        if output.token_ids:
            self._arrivals_s.append(now_s)
            self._tokens += len(output.token_ids)
        if output.error is not None:
            self.ended.set_result(Sample(error=str(output.error)))
        elif output.finish_reason is not None:
            self.ended.set_result(sample(self._sent_s, self._arrivals_s, self._prompt_tokens, self._tokens))


@contextlib.asynccontextmanager
async def engine_target(settings: Settings) -> AsyncIterator[EngineTarget]:
    """The engine that `settings` name, loaded; it is closed when the context ends.

    Raises:
        SageError: it cannot be started.
    """
    engine = make_engine(settings)
    target = EngineTarget(
        engine, {"label": "engine", "settings": settings.model_dump(mode="json", exclude_unset=True)}
    )
    try:
        served = await engine.start(target.emit)
        if served.tokenizer_json:
            target.tokenizer = Tokenizer(served.tokenizer_json, served.card)
        yield target
    finally:
        await engine.close()
