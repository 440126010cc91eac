"""`Batch`: the device's view of a step."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows of a step: first those that decode, one a sequence, then those of prompts.

    All tensors are int32. For each row its `token_ids`, `positions` and `slots` in the cache (-1: not kept). For
    each sequence its `lengths`, this step's tokens included, and where its blocks begin in `tables`
    (`table_starts`). `prompt_starts` are the first rows of the prompts, counted from the first one's, and the
    end of the last; `longest_prompt` is how many rows one has at most. `max_tokens` is no less than any length.
    `logits_rows` are the rows whose scores are wanted; None means all.
    """

    token_ids: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    lengths: torch.Tensor
    table_starts: torch.Tensor
    tables: torch.Tensor
    prompt_starts: torch.Tensor
    num_decodes: int
    longest_prompt: int
    max_tokens: int
    logits_rows: torch.Tensor | None
