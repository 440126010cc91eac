"""An instance of a running pipeline as a rig: its work goes through the queue, like everybody's.

Decode steps are timed by the arrival of frames, of which the instance sends one a step. A prompt is timed by the
instance's own report, from accepting it to the first token: neither queue nor network is in it.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator

import nats.errors
import nats.js.errors

from sagellm.broker import Connection, Message, read_bucket
from sagellm_schemas import (
    Cancel,
    Codec,
    EngineError,
    EngineState,
    Failed,
    Finished,
    Frame,
    InferenceRequest,
    InstanceInfo,
    InstanceRole,
    InstanceStats,
    InvalidRequest,
    ModelCard,
    ModelNotFound,
    RequestPriority,
    SamplingParams,
    Tokens,
    Unavailable,
    WorkReport,
    encode,
    from_body,
    subjects,
)

from .rig import Facts, Trail

BLOCK_TOKENS = 16
HEARTBEAT_WAIT_S = 5.0
RUN_TIMEOUT_S = 600.0
VOCABULARY = 32_000
"""Assumed where the model's card does not tell."""
WHOLE = (InstanceRole.GENERAL, InstanceRole.HYBRID)


class WireRig:
    """See `Rig`; `wire_rig` makes it. `asked_tokens` are the output tokens that it has asked for."""

    def __init__(self, connection: Connection, info: InstanceInfo, facts: Facts) -> None:
        self.facts = facts
        self.asked_tokens = 0
        self._connection = connection
        self._info = info
        self._inbox = connection.nc.new_inbox()
        self._frames, self._reports = Codec(Frame), Codec(WorkReport)
        self._trails: dict[str, Trail] = {}
        self._open: set[str] = set()
        self._done: asyncio.Future[None] | None = None

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Hear frames and reports."""
        nc = self._connection.nc
        async with (
            nc.handling(self._inbox, self._on_frame),
            nc.handling(subjects.reports(self._info.instance_id), self._on_report),
        ):
            yield

    async def run(self, prompts: list[list[int]], output_tokens: int) -> list[Trail]:
        """See `Rig`."""
        ids = [f"calibrate-{secrets.token_hex(8)}" for _ in prompts]
        self._trails = {name: Trail() for name in ids}
        self._open = {end for name in ids for end in (f"frame {name}", f"report {name}")}
        self._done = asyncio.get_running_loop().create_future()
        self.asked_tokens += output_tokens * len(prompts)
        for name, prompt in zip(ids, prompts, strict=True):
            request = InferenceRequest(
                id=name,
                model=self._info.model,
                prompt_token_ids=prompt,
                sampling=SamplingParams(max_tokens=output_tokens, temperature=0.0, ignore_eos=True),
                reply_to=self._inbox,
                priority=RequestPriority.CRITICAL,
                user_id="sagellm-calibrate",
                can_be_preempted=False,
                preferred_instance_id=self._info.instance_id,
            )
            self._connection.nc.send(subjects.requests(self._info.model), encode(request))
        try:
            await asyncio.wait_for(self._done, RUN_TIMEOUT_S)
        except TimeoutError:
            raise Unavailable(f"{self.facts.name} did not answer within {RUN_TIMEOUT_S:.0f} s") from None
        finally:
            if self._open:  # interrupted, or one has failed: the others are of no use
                self._connection.nc.send(subjects.CANCEL, encode(Cancel(ids=ids)))
                await self._connection.nc.flush()
        return [self._trails[name] for name in ids]

    async def heartbeat(self) -> InstanceStats:
        """The instance's next heartbeat.

        Raises:
            Unavailable: none comes.
        """
        codec = Codec(InstanceStats)
        heard: asyncio.Future[Message] = asyncio.get_running_loop().create_future()

        def on_message(message: Message) -> None:
            if not heard.done():
                heard.set_result(message)

        async with self._connection.nc.handling(subjects.stats(self._info.instance_id), on_message):
            try:
                message = await asyncio.wait_for(heard, HEARTBEAT_WAIT_S)
            except TimeoutError:
                raise Unavailable(f"{self._info.instance_id} has no heartbeat; is it alive?") from None
        return codec.decode(message.data)

    def _on_frame(self, message: Message) -> None:
        now_s = time.perf_counter()
        for event in self._frames.decode(message.data).events:
            trail = self._trails.get(event.id)
            if trail is None:
                continue
            if isinstance(event, Tokens):
                trail.arrivals.append((now_s, event.offset + len(event.token_ids)))
            elif isinstance(event, Finished):
                self._ended(f"frame {event.id}")
            else:
                reason = from_body(event.error) if isinstance(event, Failed) else EngineError("cancelled")
                self._fail(reason)

    def _on_report(self, message: Message) -> None:
        for ended in self._reports.decode(message.data).ended:
            trail = self._trails.get(ended.id)
            if trail is not None:
                trail.first_token_ms = ended.first_token_ms or 0.0
                self._ended(f"report {ended.id}")

    def _ended(self, what: str) -> None:
        self._open.discard(what)
        if not self._open and self._done is not None and not self._done.done():
            self._done.set_result(None)

    def _fail(self, error: Exception) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(error)


@contextlib.asynccontextmanager
async def wire_rig(connection: Connection, model: str | None, instance: str | None) -> AsyncIterator[WireRig]:
    """The instance of that id or worker's name, or the first of `model`, or the first there is; it must be idle.

    Raises:
        ModelNotFound: there is no such instance.
        Unavailable: it is not ready, or has work.
        InvalidRequest: it is one that does not run whole requests.
    """
    info = await _find(connection, model, instance)
    card = await _card(connection, info.model)
    rig = WireRig(connection, info, _facts(info, card, 0))
    async with rig.listening():
        beat = await rig.heartbeat()
        if beat.state is not EngineState.READY:
            raise Unavailable(f"{info.instance_id} is {beat.state.value}; calibrate one that is ready")
        if beat.running or beat.stats.running:
            raise Unavailable(f"{info.instance_id} has work; calibrate one that nobody uses meanwhile")
        rig.facts = _facts(info, card, beat.stats.kv_blocks * BLOCK_TOKENS)
        yield rig


async def _find(connection: Connection, model: str | None, instance: str | None) -> InstanceInfo:
    try:
        found = await read_bucket(connection.js, subjects.INSTANCES_BUCKET)
    except nats.js.errors.NotFoundError:
        raise Unavailable("this NATS server has no sageLLM pipeline; start one with `sagellm up`") from None
    except (nats.errors.Error, nats.js.errors.Error, TimeoutError) as error:
        raise Unavailable(f"NATS does not answer: {error or type(error).__name__}") from None
    codec = Codec(InstanceInfo)
    known = sorted((codec.decode(data) for data in found.values()), key=lambda info: info.instance_id)
    for info in known:
        named = instance is None or instance in (info.instance_id, info.instance_id.rpartition("-")[0])
        if not named or (model is not None and model != info.model):
            continue
        if info.role not in WHOLE:
            if instance is None:
                continue
            raise InvalidRequest(f"{info.instance_id} is {info.role.value}, and does not run whole requests")
        return info
    there = ", ".join(f"{info.instance_id} ({info.model})" for info in known) or "none"
    raise ModelNotFound(f"there is no such instance; there are: {there}")


async def _card(connection: Connection, model: str) -> ModelCard:
    cards = await read_bucket(connection.js, subjects.MODELS_BUCKET)
    data = cards.get(subjects.token(model))
    return Codec(ModelCard).decode(data) if data else ModelCard(name=model, max_model_len=0)


def _facts(info: InstanceInfo, card: ModelCard, kv_tokens: int) -> Facts:
    return Facts(
        name=info.instance_id,
        model=info.model,
        engine=info.engine,
        vocab_size=card.vocab_size or VOCABULARY,
        max_model_len=info.max_model_len or card.max_model_len or 2048,
        max_num_seqs=info.max_concurrent_requests,
        max_batched_tokens=info.max_batched_tokens,
        kv_tokens=kv_tokens,
    )


async def disturbed(rig: WireRig, before: InstanceStats) -> str:
    """What to say if the instance did more since that heartbeat than it was asked for; else nothing."""
    after = await rig.heartbeat()
    others = after.stats.output_tokens_total - before.stats.output_tokens_total - rig.asked_tokens
    if others <= 0:
        return ""
    return f"others had {others} tokens from {rig.facts.name} meanwhile: measure again when it is idle"
