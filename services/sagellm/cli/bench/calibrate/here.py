"""The engine in this process as a rig: the same measures without services."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from sagellm.settings import Settings
from sagellm.worker.engines import make_engine
from sagellm_engine import AsyncEngine, GenerateRequest, StepOutput
from sagellm_schemas import SamplingParams

from .rig import Facts, Trail

BLOCK_TOKENS = 16
VOCABULARY = 32_000


class EngineRig:
    """See `Rig`; `engine_rig` makes it."""

    facts: Facts

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._trails: dict[str, Trail] = {}
        self._began_s: dict[str, float] = {}
        self._left = 0
        self._done: asyncio.Future[None] | None = None
        self._count = 0

    async def run(self, prompts: list[list[int]], output_tokens: int) -> list[Trail]:
        """See `Rig`."""
        sampling = SamplingParams(max_tokens=output_tokens, temperature=0.0, ignore_eos=True)
        ids = [str(self._count + number) for number in range(len(prompts))]
        self._count += len(prompts)
        self._trails = {name: Trail() for name in ids}
        self._left = len(ids)
        self._done = asyncio.get_running_loop().create_future()
        for name, prompt in zip(ids, prompts, strict=True):
            self._began_s[name] = time.perf_counter()
            self._engine.generate(GenerateRequest(id=name, sampling=sampling, prompt_token_ids=prompt))
        await self._done
        return [self._trails[name] for name in ids]

    def emit(self, outputs: list[StepOutput]) -> None:
        """The engine's outputs of one step."""
        now_s = time.perf_counter()
        for output in outputs:
            trail = self._trails.get(output.id)
            if trail is None:
                continue
            if output.token_ids:
                if not trail.arrivals:
                    trail.first_token_ms = (now_s - self._began_s.pop(output.id)) * 1000
                trail.arrivals.append((now_s, output.offset + len(output.token_ids)))
            if output.finish_reason is not None or output.error is not None:
                self._ended(output)

    def _ended(self, output: StepOutput) -> None:
        self._left -= 1
        if self._done is None or self._done.done():
            return
        if output.error is not None:
            self._done.set_exception(output.error)
        elif not self._left:
            self._done.set_result(None)


@contextlib.asynccontextmanager
async def engine_rig(settings: Settings) -> AsyncIterator[EngineRig]:
    """The engine that `settings` name, loaded; it is closed when the context ends.

    Raises:
        SageError: it cannot be started.
    """
    engine = make_engine(settings)
    rig = EngineRig(engine)
    try:
        served = await engine.start(rig.emit)
        rig.facts = Facts(
            name="the engine in this process",
            model=served.card.name,
            engine=settings.engine,
            vocab_size=served.card.vocab_size or VOCABULARY,
            max_model_len=served.card.max_model_len,
            max_num_seqs=served.max_concurrent_requests,
            max_batched_tokens=settings.max_batched_tokens if settings.engine == "sagellm" else 0,
            kv_tokens=engine.stats().kv_blocks * BLOCK_TOKENS,
        )
        yield rig
    finally:
        await engine.close()
