"""A scheduler and worker in one, as small as can be: takes requests off the stream and answers as it is told."""

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine

from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig
from tokenizers import Tokenizer as HFTokenizer
from tokenizers import decoders, models, pre_tokenizers

from sagellm.broker import Connection
from sagellm_schemas import (
    Cancel,
    Codec,
    EngineState,
    EngineStats,
    Event,
    Finished,
    FinishReason,
    Frame,
    HeldQuery,
    HeldReply,
    InferenceRequest,
    InstanceInfo,
    InstanceStats,
    ModelCard,
    Tokens,
    Usage,
    encode,
    subjects,
)

MODEL = "tiny-model"
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if messages[0].role == 'tool' %}{{ raise_exception('no tool may begin') }}{% endif %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
WORDS = ["Hello", " world", ",", " this", " is", " ", "“quoted”", "\n", '"json"', " \\", " 🙂", "."]
TEXT = "".join(WORDS)

Answer = Callable[["Backend", InferenceRequest], Coroutine[None, None, None]]


def byte_tokenizer() -> bytes:
    """A `tokenizer.json` with one token for each byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = HFTokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer.to_str().encode()


def card(name: str = MODEL, *, tokenizer: bytes | None = None, max_model_len: int = 512) -> ModelCard:
    """A card, naming `tokenizer` if there is one."""
    name_of = f"{subjects.token(name)}-{hashlib.sha256(tokenizer).hexdigest()[:16]}" if tokenizer else ""
    return ModelCard(
        name=name,
        max_model_len=max_model_len,
        tokenizer=name_of,
        chat_template=CHAT_TEMPLATE,
        created=1_700_000_000,
    )


async def publish_card(connection: Connection, made: ModelCard, tokenizer: bytes | None) -> None:
    """Do what a worker does at its start."""
    if tokenizer is not None:
        store = await connection.js.object_store(subjects.TOKENIZERS_BUCKET)
        await store.put(made.tokenizer, tokenizer)
    bucket = await connection.js.key_value(subjects.MODELS_BUCKET)
    await bucket.put(subjects.token(made.name), encode(made, "application/json"))


def whole_answer(request: InferenceRequest, *, attempt: int = 1, first: int = 0) -> list[Event]:
    """Every event of the usual answer, one token an event, from token `first` on."""
    return [
        *(
            Tokens(id=request.id, attempt=attempt, offset=offset, token_ids=[offset], text=WORDS[offset])
            for offset in range(first, len(WORDS))
        ),
        finished(request, attempt=attempt),
    ]


def finished(request: InferenceRequest, *, attempt: int = 1) -> Finished:
    """The end of the usual answer."""
    prompt_tokens = len(request.prompt_token_ids or [])
    return Finished(
        id=request.id,
        attempt=attempt,
        finish_reason=FinishReason.STOP,
        usage=Usage(
            prompt_tokens=prompt_tokens, completion_tokens=len(WORDS), cached_tokens=min(3, prompt_tokens)
        ),
    )


async def answer_at_once(backend: "Backend", request: InferenceRequest) -> None:
    """A frame for each event."""
    for event in whole_answer(request):
        await backend.send(request, event)


class Backend:
    """What a test sees of it: the requests that came, the cancellations, and a say in the answers."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.answer: Answer = answer_at_once
        self.requests: asyncio.Queue[InferenceRequest] = asyncio.Queue()
        self.cancelled: asyncio.Queue[str] = asyncio.Queue()
        self.state = EngineState.READY
        self.formats: dict[str, str] = {}
        self._codec: Codec[InferenceRequest] = Codec(InferenceRequest)
        self._cancels: Codec[Cancel] = Codec(Cancel)
        self._replies: Codec[HeldReply] = Codec(HeldReply)
        self._answering: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Backend"]:
        """Take requests within this context."""
        js, nc = self.connection.js, self.connection.nc
        config = ConsumerConfig(max_ack_pending=-1)
        await js.subscribe(
            subjects.ALL_REQUESTS,
            stream=subjects.REQUESTS_STREAM,
            cb=self._on_request,
            config=config,
            manual_ack=True,
        )
        await nc.subscribe(subjects.CANCEL, cb=self._on_cancel)
        await nc.flush()
        try:
            yield self
        finally:
            for task in self._answering:
                task.cancel()

    async def send(self, request: InferenceRequest, *events: Event) -> None:
        """One frame to the reader of `request`."""
        kind = self.formats.get(request.id, "application/msgpack")
        await self.connection.nc.publish(request.reply_to, encode(Frame(events=list(events)), kind))

    async def held(self, request: InferenceRequest, next_attempt: int) -> list[int] | None:
        """Ask the reader what it holds of `request`, as the scheduler does before another attempt."""
        owner = subjects.owner_of(request.reply_to)
        assert owner is not None
        query = HeldQuery(attempts={request.id: next_attempt})
        reply = await self.connection.nc.request(subjects.held(owner), encode(query), timeout=5)
        held = self._replies.decode(reply.data).held.get(request.id)
        return None if held is None else held.token_ids

    async def heartbeat(self, model: str = MODEL) -> None:
        """Tell everyone about the one instance."""
        stats = InstanceStats(
            info=InstanceInfo(instance_id="w1", model=model),
            state=self.state,
            running={},
            stats=EngineStats(),
            sent_at=time.time(),
        )
        await self.connection.nc.publish(subjects.stats("w1"), encode(stats))

    async def _on_request(self, msg: Msg) -> None:
        content_type = (msg.headers or {}).get(subjects.CONTENT_TYPE)
        request = self._codec.decode(msg.data, content_type)
        self.formats[request.id] = content_type or "application/json"
        await msg.ack()
        self.requests.put_nowait(request)
        task = asyncio.create_task(self.answer(self, request))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _on_cancel(self, msg: Msg) -> None:
        for request_id in self._cancels.decode(msg.data).ids:
            self.cancelled.put_nowait(request_id)
