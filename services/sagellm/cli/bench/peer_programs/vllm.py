"""vLLM, stepped in this process as its offline `LLM` class does it."""

import os

from .closed_loop import run_closed_loop
from .protocol import CannotCompareError, Load, Peer, Setup, Timing, serve

KV_CACHE_GIB = "2"


class Vllm:
    """vLLM's engine with a model loaded."""

    def __init__(self, setup: Setup) -> None:
        # Of the CPU build: it would take half of the memory, and keep one core from its threads.
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", KV_CACHE_GIB)
        os.environ.setdefault("VLLM_CPU_NUM_OF_RESERVED_CPU", "0")
        try:
            import vllm
        except ImportError as error:
            raise CannotCompareError(f"vLLM is not there: {error}") from None
        self._vllm = vllm
        # A model's own context of 131,072 tokens would not fit the cache.
        self._engine = vllm.LLM(
            model=setup["model"], dtype=setup["dtype"], max_model_len=setup["max_tokens"]
        ).llm_engine
        self._held: dict[str, int] = {}

    def describe(self) -> dict[str, object]:
        """See `Peer`."""
        return {"version": self._vllm.__version__}

    def run(self, load: Load) -> list[Timing]:
        """See `Peer`."""
        return run_closed_loop(self, load)

    def add(self, request: int, prompt: list[int], output_tokens: int) -> None:
        """See `Stepped`."""
        sampling = self._vllm.SamplingParams(max_tokens=output_tokens, temperature=0.0, ignore_eos=True)
        self._held[str(request)] = 0
        self._engine.add_request(str(request), {"prompt_token_ids": prompt}, sampling)

    def step(self) -> dict[int, int]:
        """See `Stepped`."""
        progress = {}
        for output in self._engine.step():
            held = len(output.outputs[0].token_ids)
            progress[int(output.request_id)] = held - self._held[output.request_id]
            self._held[output.request_id] = held
        return {request: tokens for request, tokens in progress.items() if tokens}


def start(setup: Setup) -> Peer:
    """The peer, loaded."""
    return Vllm(setup)


if __name__ == "__main__":
    serve(start)
