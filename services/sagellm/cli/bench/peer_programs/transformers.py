"""transformers: `generate` on whole batches, each of as many prompts as there are streams."""

import time
from typing import Any

from .protocol import CannotCompareError, Load, Peer, Setup, Timing, serve


class Transformers:
    """A model of transformers."""

    def __init__(self, setup: Setup) -> None:
        try:
            import torch
            import transformers
        except ImportError as error:
            raise CannotCompareError(f"transformers is not there: {error}") from None
        torch.set_num_threads(setup["threads"])
        self._torch = torch
        self._transformers = transformers
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            setup["model"], dtype=getattr(torch, setup["dtype"])
        )
        self._model = model.to(self._device).eval()

    def describe(self) -> dict[str, object]:
        """See `Peer`."""
        return {
            "version": self._transformers.__version__,
            "torch": self._torch.__version__,
            "device": self._device,
        }

    def run(self, load: Load) -> list[Timing]:
        """See `Peer`. A batch ends as a whole before the next begins: `generate` can do no other."""
        prompts, size = load["prompts"], load["concurrency"]
        timings: list[Timing] = []
        for first in range(0, len(prompts), size):
            timings += self._batch(prompts[first : first + size], load["output_tokens"])
        return timings

    def _batch(self, prompts: list[list[int]], output_tokens: int) -> list[Timing]:
        longest = max(map(len, prompts))
        rows = [[0] * (longest - len(prompt)) + prompt for prompt in prompts]
        mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        arrivals_s: list[float] = []

        def note(token_ids: Any, scores: Any, **_: object) -> Any:
            """Called after each token of the batch; ends nothing."""
            arrivals_s.append(time.perf_counter())
            return self._torch.zeros(len(prompts), dtype=self._torch.bool, device=token_ids.device)

        sent_s = time.perf_counter()
        self._model.generate(
            self._torch.tensor(rows, device=self._device),
            attention_mask=self._torch.tensor(mask, device=self._device),
            do_sample=False,
            min_new_tokens=output_tokens,
            max_new_tokens=output_tokens,
            pad_token_id=0,
            stopping_criteria=self._transformers.StoppingCriteriaList([note]),
        )
        timing: Timing = {"sent_s": sent_s, "arrivals_s": arrivals_s, "output_tokens": output_tokens}
        return [timing for _ in prompts]


def start(setup: Setup) -> Peer:
    """The peer, loaded."""
    return Transformers(setup)


if __name__ == "__main__":
    serve(start)
