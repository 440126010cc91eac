"""From what passes over NATS to lines of a trace: each request is written when it has ended."""

import time
from collections import Counter
from collections.abc import Callable

import msgspec

from sagellm.broker import Message
from sagellm.scheduler.adoption import is_final
from sagellm.scheduler.reading import Delivery, Reader, Rejection
from sagellm.scheduler.requests import TrackedRequest
from sagellm.scheduler.routing.affinity import SESSION_TAG
from sagellm.simulator.traces import Ending, RecordedRequest
from sagellm_schemas import (
    Cancel,
    Codec,
    DeadLetter,
    Ended,
    InferenceRequest,
    InvalidRequest,
    RequestPriority,
    WorkReport,
)

from .disguise import Disguise
from .turns import Turns

MAX_OPEN_BYTES = 512 << 20
REMEMBERED = 100_000
CANCEL_GRACE_S = 5.0
"""How long after a cancellation a worker may still tell how far the request had come."""
NUMBERED = "nats-"
"""The scheduler names a request that has no id by its place in the durable queue."""
UNNAMED = Delivery(0, 0, 0.0, 0)
OPEN_BYTES = 1000
BLOCK_BYTES = 40

Write = Callable[[RecordedRequest], None]


class Recorder:
    """Hears requests, endings, cancellations and dead letters, and writes a line for each request.

    Memory is bounded: when requests that have not ended take more than `max_open_bytes`, the oldest are written
    with an unknown ending. `clock` are Unix seconds.
    """

    def __init__(
        self,
        write: Write,
        disguise: Disguise,
        *,
        prompts: bool = False,
        max_open_bytes: int = MAX_OPEN_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.seen = 0
        self.malformed = 0
        self.input_tokens = self.output_tokens = 0
        self.outcomes: Counter[Ending] = Counter()
        self._write = write
        self._disguise = disguise
        self._prompts = prompts
        self._max_open_bytes = max_open_bytes
        self._clock = clock
        self._turns = Turns(disguise.block_tokens)
        self._reader = Reader()
        self._reports, self._cancels, self._letters = Codec(WorkReport), Codec(Cancel), Codec(DeadLetter)
        self._open: dict[str, RecordedRequest] = {}
        self._open_bytes = 0
        self._unnamed: dict[str, None] = {}
        """Which of the open ones came without an id, oldest first."""
        self._numbers: dict[str, str] = {}
        """The names that the scheduler gave them."""
        self._cancelled: dict[str, float] = {}
        self._known: dict[str, None] = {}
        """Ids lately seen: a message that is sent again is stored once."""
        self.arriving = True
        """Set to False, no request is added any more, and only endings are heard."""

    @property
    def open(self) -> int:
        """Requests that have not ended."""
        return len(self._open)

    def on_request(self, message: Message) -> None:
        """A request on its way into the durable queue."""
        if not self.arriving:
            return
        read = self._reader.read(message, UNNAMED)
        if isinstance(read, Rejection):
            self.malformed += 1
            return
        request_id, named = read.id, read.id != f"{NUMBERED}0"
        if not named:
            request_id = f"#{self.seen}"
            self._unnamed[request_id] = None
        elif request_id in self._known:
            return
        else:
            _remember(self._known, request_id)
        self.seen += 1
        line = self._line(read)
        self._open[request_id] = line
        self._open_bytes += _bytes_of(line)
        while self._open_bytes > self._max_open_bytes:
            self._end(next(iter(self._open)), "unknown")

    def on_report(self, message: Message) -> None:
        """What has ended at an instance."""
        try:
            report = self._reports.decode(message.data)
        except InvalidRequest:
            return
        for ended in report.ended:
            self._ended(ended)

    def on_cancel(self, message: Message) -> None:
        """Readers that want no more: what runs is reported, what waits is not."""
        try:
            cancel = self._cancels.decode(message.data)
        except InvalidRequest:
            return
        for request_id in cancel.ids:
            if request_id in self._open:
                self._cancelled.setdefault(request_id, self._clock())

    def on_dead_letter(self, message: Message) -> None:
        """A request that is given up."""
        try:
            letter = self._letters.decode(message.data)
        except InvalidRequest:
            return
        if letter.request is not None or letter.id in self._open:  # else it was malformed, and has no line
            self._end(self._own_id(letter.id), "failed")

    def tick(self) -> None:
        """Once a second: what was cancelled while it waited has ended."""
        until_s = self._clock() - CANCEL_GRACE_S
        for request_id in [name for name, at_s in self._cancelled.items() if at_s <= until_s]:
            self._end(request_id, "cancelled")

    def close(self) -> None:
        """Write what has not ended."""
        for request_id in list(self._open):
            self._end(request_id, "cancelled" if request_id in self._cancelled else "unknown")

    def _line(self, tracked: TrackedRequest) -> RecordedRequest:
        request, disguise = tracked.request, self._disguise
        tokens = request.prompt_token_ids or ()
        blocks = disguise.blocks(tokens)
        turn, continues = self._turns.link(tokens, blocks) if tokens else (None, None)
        line = RecordedRequest(
            arrival_s=round(self._clock(), 6),
            model=request.model,
            user=disguise.name(request.user_id),
            session=disguise.name(request.tags.get(SESSION_TAG, "")),
            priority=RequestPriority(tracked.priority).name,
            billing_tier=request.billing_tier,
            ttft_slo_ms=request.ttft_slo_ms,
            tbt_slo_ms=request.tbt_slo_ms,
            slo_deadline_ms=request.slo_deadline_ms,
            cost_budget=request.cost_budget,
            can_be_preempted=request.can_be_preempted,
            max_tokens=request.sampling.max_tokens,
            input_tokens=tracked.prompt_tokens,
            output_tokens=0,
            block_tokens=disguise.block_tokens,
            blocks=blocks,
            turn=turn,
            continues=continues,
        )
        return _with_prompt(line, request) if self._prompts else line

    def _ended(self, ended: Ended) -> None:
        request_id = self._own_id(ended.id, ended.usage.prompt_tokens)
        line = self._open.get(request_id)
        if line is None:
            return
        usage, now_s = ended.usage, self._clock()
        changes: dict[str, object] = {}
        if ended.first_token_ms is not None and line.ttft_ms is None:
            since_ms = ended.duration_ms - ended.first_token_ms
            changes["ttft_ms"] = round(max(0.0, (now_s - line.arrival_s) * 1000 - since_ms), 3)
        if usage.completion_tokens:
            changes |= {"output_tokens": usage.completion_tokens, "cached_tokens": usage.cached_tokens}
        if usage.prompt_tokens:
            changes["input_tokens"] = usage.prompt_tokens
        if is_final(ended):
            changes["latency_ms"] = round((now_s - line.arrival_s) * 1000, 3)
        if changes:
            self._open[request_id] = msgspec.structs.replace(line, **changes)
        if is_final(ended):
            self._end(request_id, ended.outcome.value)  # type: ignore[arg-type]

    def _own_id(self, request_id: str, prompt_tokens: int = 0) -> str:
        """The key of a request. One that came without an id is known by its prompt's size, the oldest first."""
        if request_id in self._open or not request_id.startswith(NUMBERED):
            return request_id
        found = self._numbers.get(request_id)
        if found is None and self._unnamed:
            alike = (key for key in self._unnamed if self._open[key].input_tokens == prompt_tokens)
            found = next(alike, None) or next(iter(self._unnamed))
            del self._unnamed[found]
            self._numbers[request_id] = found
            if len(self._numbers) > REMEMBERED:
                del self._numbers[next(iter(self._numbers))]
        return found or request_id

    def _end(self, request_id: str, outcome: Ending) -> None:
        line = self._open.pop(request_id, None)
        if line is None:
            return
        self._open_bytes -= _bytes_of(line)
        self._unnamed.pop(request_id, None)
        self._cancelled.pop(request_id, None)
        self.outcomes[outcome] += 1
        self.input_tokens += line.input_tokens
        self.output_tokens += line.output_tokens
        self._write(msgspec.structs.replace(line, outcome=outcome))


def _with_prompt(line: RecordedRequest, request: InferenceRequest) -> RecordedRequest:
    if request.prompt_token_ids is not None:
        return msgspec.structs.replace(line, prompt_token_ids=list(request.prompt_token_ids))
    if request.messages is not None:
        return msgspec.structs.replace(line, messages=request.messages)
    return msgspec.structs.replace(line, prompt=request.prompt or "")


def _bytes_of(line: RecordedRequest) -> int:
    """About what an open request takes in memory."""
    prompt = 0
    if line.prompt_token_ids is not msgspec.UNSET:
        prompt = BLOCK_BYTES * len(line.prompt_token_ids)
    elif line.prompt is not msgspec.UNSET:
        prompt = 4 * len(line.prompt)
    elif line.messages is not msgspec.UNSET:
        prompt = 4 * sum(len(str(message.content)) for message in line.messages)
    return OPEN_BYTES + BLOCK_BYTES * len(line.blocks) + prompt


def _remember(memory: dict[str, None], key: str) -> None:
    memory[key] = None
    if len(memory) > REMEMBERED:
        del memory[next(iter(memory))]
