"""From logits to tokens on the device: temperature, top-k, top-p, min-p and a draw, without sorting.

What is kept is decided by a threshold on the probability, found by bisection over the bits of a float, which are
in the order of the numbers: so the k-th largest value is found exactly, and tokens as likely as the last one
kept stay too, as in `sagellm_engine.sampler.candidates`. (Sorting-free samplers: FlashInfer, Ye et al., 2025.)
Before that, what can be among the kept is written side by side in order of token id, so the search looks at
hundreds of tokens instead of the vocabulary.
"""

import numpy as np
import torch
import triton
import triton.language as tl

from sagellm_engine.sampler import GREEDY_BELOW, candidates
from sagellm_schemas import SamplingParams

NOT_FINITE = -1
"""The token of a row whose scores are not finite numbers."""

_BLOCK = 4096


@triton.jit
def _scaled(row_logits, at, vocabulary, temperature):
    x = tl.load(row_logits + at, mask=at < vocabulary, other=float("-inf")).to(tl.float32)
    return x / temperature


@triton.jit
def _compact(
    row_logits, probabilities, token_ids, vocabulary, temperature, best, total, bound, BLOCK: tl.constexpr
):
    """Write the tokens of at least probability `bound` side by side, in order of id; returns how many."""
    count = 0
    for start in range(0, vocabulary, BLOCK):
        at = start + tl.arange(0, BLOCK)
        p = tl.exp(_scaled(row_logits, at, vocabulary, temperature) - best) / total
        kept = (at < vocabulary) & (p >= bound)
        place = count + tl.cumsum(kept.to(tl.int32), 0) - 1
        tl.store(probabilities + place, p, mask=kept)
        tl.store(token_ids + place, at, mask=kept)
        count += tl.sum(kept.to(tl.int32), 0)
    tl.debug_barrier()  # other threads of the program read what this one has written
    return count


@triton.jit
def _at_least(probabilities, count, bits, BLOCK: tl.constexpr):
    """How many of the `count` probabilities are not below the float of these bits, and their sum."""
    number, mass = 0, tl.sum(tl.zeros((BLOCK,), tl.float64), 0)
    for start in range(0, count, BLOCK):
        at = start + tl.arange(0, BLOCK)
        p = tl.load(probabilities + at, mask=at < count, other=0.0)
        kept = (at < count) & (p.to(tl.int32, bitcast=True) >= bits)
        number += tl.sum(kept.to(tl.int32), 0)
        mass += tl.sum(tl.where(kept, p, 0.0).to(tl.float64), 0)
    return number, mass


@triton.jit
def _threshold(probabilities, count, low, high, enough_tokens, enough_mass, BLOCK: tl.constexpr):
    """The bits of the largest threshold that still keeps so many tokens and so much mass; `low` always does.

    The search ends when at most one token lies between what is enough and what is not.
    """
    tokens_low, _mass = _at_least(probabilities, count, low, BLOCK)
    tokens_high = 0
    while (high - low > 1) & (tokens_low - tokens_high > 1) & (tokens_low > enough_tokens):
        middle = low + (high - low) // 2
        tokens, mass = _at_least(probabilities, count, middle, BLOCK)
        enough = (tokens >= enough_tokens) & (mass >= enough_mass)
        low = tl.where(enough, middle, low)
        tokens_low = tl.where(enough, tokens, tokens_low)
        high = tl.where(enough, high, middle)
        tokens_high = tl.where(enough, tokens_high, tokens)
    return low


@triton.jit
def _sample(
    logits, temperatures, top_ks, top_ps, min_ps, uniforms, all_probabilities, all_token_ids, out,
    stride_logits, vocabulary, GREEDY_BELOW: tl.constexpr, NOT_FINITE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: one row."""
    row = tl.program_id(0).to(tl.int64)
    row_logits = logits + row * stride_logits
    probabilities, token_ids = all_probabilities + row * vocabulary, all_token_ids + row * vocabulary
    temperature = tl.load(temperatures + row)
    greedy = temperature < GREEDY_BELOW
    temperature = tl.where(greedy, 1.0, temperature)

    # Every lane keeps the maximum of its own tokens, where it was first, and the softmax's denominator by it.
    best_of = tl.full((BLOCK,), float("-inf"), tl.float32)
    where_best = tl.zeros((BLOCK,), tl.int32)
    total_of = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, vocabulary, BLOCK):
        at = start + tl.arange(0, BLOCK)
        z = _scaled(row_logits, at, vocabulary, temperature)
        where_best = tl.where(z > best_of, at, where_best)
        new_best = tl.maximum(best_of, z)
        shift = tl.where(new_best == float("-inf"), 0.0, new_best)
        total_of = total_of * tl.exp(best_of - shift) + tl.exp(z - shift)
        best_of = new_best
    best = tl.max(best_of, 0)
    token = tl.min(tl.where(best_of == best, where_best, vocabulary), 0)
    total = tl.sum(total_of * tl.exp(best_of - best), 0)  # no number if any score is none, or infinite

    if total != total:
        token = NOT_FINITE
    elif greedy == 0:
        top_k, top_p, min_p = tl.load(top_ks + row), tl.load(top_ps + row), tl.load(min_ps + row)
        largest = 1.0 / total
        bound = 0.0
        if top_k > 0:
            bound = largest * 1e-4
        elif top_p < 1.0:
            # All tokens less likely than this share of what top-p leaves out do not reach that, even together.
            bound = (0.5 * (1.0 - top_p) / vocabulary).to(tl.float32)
        else:
            bound = min_p * largest
        count = _compact(row_logits, probabilities, token_ids, vocabulary, temperature, best, total, bound, BLOCK)
        if count < top_k:
            count = _compact(
                row_logits, probabilities, token_ids, vocabulary, temperature, best, total, 0.0, BLOCK
            )
        low = 0
        high = largest.to(tl.int32, bitcast=True) + 1
        if (top_k > 0) & (top_k < count):
            low = _threshold(probabilities, count, low, high, top_k, 0.0, BLOCK)
        if top_p < 1.0:
            _number, mass = _at_least(probabilities, count, low, BLOCK)
            mass = tl.where(top_k > 0, mass, 1.0)
            low = _threshold(probabilities, count, low, high, 1, top_p * mass, BLOCK)
        low = tl.maximum(low, (min_p * largest).to(tl.int32, bitcast=True))

        _number, mass = _at_least(probabilities, count, low, BLOCK)
        goal = tl.load(uniforms + row) * mass
        before = goal * 0.0
        chosen, last = count, 0
        for start in range(0, count, BLOCK):
            at = start + tl.arange(0, BLOCK)
            p = tl.load(probabilities + at, mask=at < count, other=0.0)
            kept = (at < count) & (p.to(tl.int32, bitcast=True) >= low)
            weight = tl.where(kept, p, 0.0).to(tl.float64)
            beyond = kept & (before + tl.cumsum(weight, 0) > goal)
            chosen = tl.minimum(chosen, tl.min(tl.where(beyond, at, count), 0))
            last = tl.maximum(last, tl.max(tl.where(kept, at, 0), 0))
            before += tl.sum(weight, 0)
        token = tl.load(token_ids + tl.minimum(chosen, last))
    tl.store(out + row, token)


def sample(
    logits: torch.Tensor,
    temperatures: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    min_p: torch.Tensor,
    uniforms: torch.Tensor,
    workspace: torch.Tensor | None = None,
) -> torch.Tensor:
    """One token for each row of `logits` (rows, vocabulary), int32; NOT_FINITE where scores are NaN or infinite.

    For each row: `temperatures` float32 (below GREEDY_BELOW: the best token, the first of equals), `top_k` int32
    (0: no limit), `top_p` float64 (1: no limit), `min_p` float32 (0: no limit), `uniforms` float64 in [0, 1). A
    score of -inf bans a token. `workspace` (2, rows or more, vocabulary) float32 is written to.
    """
    rows, vocabulary = logits.shape
    out = torch.empty(rows, dtype=torch.int32, device=logits.device)
    if workspace is None:
        workspace = torch.empty(2, rows, vocabulary, dtype=torch.float32, device=logits.device)
    _sample[(rows,)](
        logits, temperatures, top_k, top_p, min_p, uniforms, workspace[0], workspace[1].view(torch.int32), out,
        logits.stride(0), vocabulary, GREEDY_BELOW=GREEDY_BELOW, NOT_FINITE=NOT_FINITE,
        BLOCK=min(_BLOCK, triton.next_power_of_2(vocabulary)), num_warps=16,
    )  # fmt: skip
    return out


def sample_reference(
    logits: torch.Tensor,
    temperatures: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    min_p: torch.Tensor,
    uniforms: torch.Tensor,
) -> torch.Tensor:
    """The same by the sampler of the CPU, row by row."""
    tokens = []
    for row in range(len(logits)):
        scores, temperature = logits[row].float().cpu(), float(temperatures[row])
        if torch.isnan(scores).any() or scores.max().abs() == torch.inf:
            tokens.append(NOT_FINITE)
        elif temperature < GREEDY_BELOW:
            tokens.append(int(scores.argmax()))
        else:
            params = SamplingParams(
                temperature=temperature, top_k=int(top_k[row]), top_p=float(top_p[row]), min_p=float(min_p[row])
            )
            token_ids, weights = candidates((scores / temperature).softmax(-1).numpy(), params)
            cumulative = weights.cumsum(dtype=np.float64)
            index = int(cumulative.searchsorted(float(uniforms[row]) * cumulative[-1], side="right"))
            tokens.append(index if token_ids is None else int(token_ids[index]))
    return torch.tensor(tokens, dtype=torch.int32)
