"""llama.cpp through llama-cpp-python's low-level API: continuous batching, as `llama-server` does it.

Each step decodes one batch: a token of every sequence that is answering, then as much of the prompts as fits. The
high-level `Llama` class holds one sequence at a time, so it cannot be measured with several streams.
"""

import ctypes
from dataclasses import dataclass, field
from typing import Any

from .closed_loop import run_closed_loop
from .protocol import CannotCompareError, Load, Peer, Setup, Timing, serve

BATCH_TOKENS = 2048
"""Tokens of one `llama_decode`, llama.cpp's own default."""
CONTEXT_STEP_TOKENS = 256
"""llama.cpp rounds the context of each sequence up to a multiple of this."""


@dataclass
class _Slot:
    """A request in one of the context's sequences."""

    request: int
    sequence: int
    pending: list[int]
    """Tokens that are not in the KV cache yet: of the prompt, or the newest of the answer."""
    left: int
    """Tokens still to answer."""
    position: int = 0


@dataclass
class _Batch:
    """A `llama_batch`, and which slot samples from which of its rows."""

    native: Any
    size: int = 0
    sampled: list[tuple[_Slot, int]] = field(default_factory=list)

    def add(self, token: int, slot: _Slot, wants_logits: bool) -> None:
        native, row = self.native, self.size
        native.token[row] = token
        native.pos[row] = slot.position
        native.n_seq_id[row] = 1
        native.seq_id[row][0] = slot.sequence
        native.logits[row] = wants_logits
        if wants_logits:
            self.sampled.append((slot, row))
        slot.position += 1
        self.size += 1


class LlamaCpp:
    """A llama.cpp context with as many sequences as there will be streams."""

    def __init__(self, setup: Setup) -> None:
        try:
            import llama_cpp
        except (ImportError, OSError, RuntimeError) as error:
            raise CannotCompareError(f"llama-cpp-python is not there: {error}") from None
        self._api: Any = llama_cpp
        llama_cpp.llama_backend_init()
        # The default logger prints from C whatever is said, model metadata included.
        self._silence = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self._silence, ctypes.c_void_p(0))
        self._model = llama_cpp.llama_model_load_from_file(
            setup["model"].encode(), llama_cpp.llama_model_default_params()
        )
        if not self._model:
            raise CannotCompareError(f"llama.cpp cannot load {setup['model']}")
        self._context = llama_cpp.llama_init_from_model(self._model, self._context_params(setup))
        if not self._context:
            raise CannotCompareError("llama.cpp cannot make a context for so many streams of so many tokens")
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._sampler = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
        llama_cpp.llama_sampler_chain_add(self._sampler, llama_cpp.llama_sampler_init_greedy())
        self._batch = llama_cpp.llama_batch_init(BATCH_TOKENS, 0, 1)
        self._free = set(range(setup["max_streams"]))
        self._slots: list[_Slot] = []

    def describe(self) -> dict[str, object]:
        """See `Peer`."""
        return {
            "version": self._api.__version__,
            "system": self._api.llama_print_system_info().decode(),
            "batch_tokens": BATCH_TOKENS,
        }

    def run(self, load: Load) -> list[Timing]:
        """See `Peer`."""
        return run_closed_loop(self, load)

    def add(self, request: int, prompt: list[int], output_tokens: int) -> None:
        """See `Stepped`."""
        sequence = min(self._free)
        self._free.remove(sequence)
        self._slots.append(_Slot(request, sequence, list(prompt), output_tokens))

    def step(self) -> dict[int, int]:
        """See `Stepped`."""
        batch = _Batch(self._batch)
        # Those that answer have one token pending each: first, so that no prompt holds them up. llama.cpp computes
        # sequences together as long as their numbers ascend by one, so in that order.
        for slot in sorted(self._slots, key=lambda slot: (len(slot.pending) > 1, slot.sequence)):
            room = BATCH_TOKENS - batch.size
            now, slot.pending = slot.pending[:room], slot.pending[room:]
            for index, token in enumerate(now):
                batch.add(token, slot, not slot.pending and index == len(now) - 1)
        self._batch.n_tokens = batch.size
        status = self._api.llama_decode(self._context, self._batch)
        if status != 0:
            raise CannotCompareError(f"llama_decode failed with status {status}")
        for slot, row in batch.sampled:
            slot.pending = [self._api.llama_sampler_sample(self._sampler, self._context, row)]
            slot.left -= 1
            if slot.left == 0:
                self._end(slot)
        return {slot.request: 1 for slot, _ in batch.sampled}

    def _end(self, slot: _Slot) -> None:
        self._api.llama_memory_seq_rm(self._memory, slot.sequence, -1, -1)
        self._slots.remove(slot)
        self._free.add(slot.sequence)

    def _context_params(self, setup: Setup) -> Any:
        params = self._api.llama_context_default_params()
        of_each = -(-setup["max_tokens"] // CONTEXT_STEP_TOKENS) * CONTEXT_STEP_TOKENS
        params.n_ctx = of_each * setup["max_streams"]
        params.n_seq_max = setup["max_streams"]
        params.n_batch = BATCH_TOKENS
        params.n_threads = params.n_threads_batch = setup["threads"]
        # A cache for each sequence: in a common one, each attends over the tokens of all.
        params.kv_unified = False
        params.no_perf = True
        return params


def start(setup: Setup) -> Peer:
    """The peer, loaded."""
    return LlamaCpp(setup)


if __name__ == "__main__":
    serve(start)
