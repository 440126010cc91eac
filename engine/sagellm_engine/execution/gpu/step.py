"""`Step`: one step under way on the GPU."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Step:
    """What `GpuExecutor.launch` has started; only the methods wait.

    `scores` (wanted rows, vocabulary) float32 are on the device and hold until the next launch.
    """

    scores: torch.Tensor
    host_tokens: torch.Tensor
    done: torch.cuda.Event | None

    def tokens(self) -> list[int]:
        """The tokens that were drawn, one for each wanted row; NOT_FINITE where scores are no numbers.

        Valid until the launch after the next one.
        """
        if self.done is not None:
            self.done.synchronize()
        tokens: list[int] = self.host_tokens.tolist()
        return tokens

    def host_scores(self) -> torch.Tensor:
        """The scores on the CPU."""
        return self.scores.cpu()
