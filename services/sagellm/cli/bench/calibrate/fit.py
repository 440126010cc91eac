"""From measurements to a cost model: what a step takes by its tokens, the KV it reads, and who attends to whom."""

import msgspec
import numpy as np

from sagellm.simulator.cost import CostModel, Profile, StepClock
from sagellm_schemas import EngineError

from .probes import Measurement, Probe
from .rig import Facts


class Fitted(msgspec.Struct, frozen=True, kw_only=True):
    """A measurement beside what the cost model says; `error` is its share of what was measured."""

    probe: Probe
    measured_ms: float
    fitted_ms: float
    error: float


class _Steps(msgspec.Struct, frozen=True, kw_only=True):
    """The steps of a probe: the tokens of each, and the KV read and the pairs attending in all of them."""

    tokens: list[int]
    kv_tokens: float
    pairs: float


def fit(
    facts: Facts, measurements: list[Measurement], budget: int, kv_bytes_per_token: float, origin: str
) -> CostModel:
    """Least squares of the relative error, no coefficient below 0.

    Each number of tokens that was measured becomes a row of `dense_ms`, in which the LM head and all else that is
    not KV or prefill attention is included.

    Raises:
        EngineError: nothing came of the measurements.
    """
    steps = [_steps(m, budget) for m in measurements]
    knots = sorted({tokens for one in steps for tokens in one.tokens})
    rows = np.array(
        [[float(one.tokens.count(knot)) for knot in knots] + [one.kv_tokens, one.pairs] for one in steps]
    )
    measured = np.array([m.ms for m in measurements])
    if not len(measured) or not (measured > 0).all():
        raise EngineError("the instance took no time at all; there is nothing to fit")
    found = _not_negative(rows / measured[:, None], np.ones(len(measured)))
    kv_ms, pair_ms = float(found[-2]), float(found[-1])
    dense: Profile = [(knot, round(float(ms), 4)) for knot, ms in zip(knots, found, strict=False)]
    kv_bytes = kv_bytes_per_token or 1.0
    return CostModel(
        name=facts.model,
        origin=origin,
        dense_ms=dense,
        kv_bytes_per_token=kv_bytes if kv_ms or kv_bytes_per_token else 0.0,
        kv_read_bytes_per_s=kv_bytes * 1000 / kv_ms if kv_ms else _NOTHING_PER_S,
        attention_flop_per_pair=1.0 if pair_ms else 0.0,
        attention_flop_per_s=1000 / pair_ms if pair_ms else 1.0,
        kv_tokens=facts.kv_tokens or facts.max_num_seqs * facts.max_model_len,
        max_num_seqs=facts.max_num_seqs,
        max_batched_tokens=budget,
    )


_NOTHING_PER_S = 1e18
"""So fast that reading takes no time."""


def compare(cost: CostModel, measurements: list[Measurement]) -> list[Fitted]:
    """What the cost model says of every probe."""
    clock = StepClock(cost, cost.max_batched_tokens)
    found = []
    for measurement in measurements:
        steps = _steps(measurement, cost.max_batched_tokens)
        fitted_s = sum(clock.step_s(tokens, 0, 0, 0.0) for tokens in steps.tokens)
        fitted_s += steps.kv_tokens * clock.kv_read_s + steps.pairs * clock.pair_s
        found.append(
            Fitted(
                probe=measurement.probe,
                measured_ms=round(measurement.ms, 4),
                fitted_ms=round(fitted_s * 1000, 4),
                error=round(fitted_s * 1000 / measurement.ms - 1, 4),
            )
        )
    return found


def _steps(measurement: Measurement, budget: int) -> _Steps:
    probe = measurement.probe
    if probe.batch:
        return _Steps(tokens=[probe.batch], kv_tokens=measurement.kv_tokens, pairs=0.0)
    whole, rest = divmod(probe.tokens, budget)
    chunks = [budget] * whole + [rest] * (rest > 0)
    done, kv, pairs = 0, 0, 0.0
    for chunk in chunks:
        kv += done
        pairs += chunk * (done + (chunk + 1) / 2)
        done += chunk
    return _Steps(tokens=chunks, kv_tokens=kv, pairs=pairs)


def _not_negative(rows: "np.ndarray", wanted: "np.ndarray") -> "np.ndarray":
    """Least squares with the most negative coefficient dropped until none is left."""
    kept = list(range(rows.shape[1]))
    while True:
        part, *_ = np.linalg.lstsq(rows[:, kept], wanted, rcond=None)
        if not len(part) or part.min() >= 0:
            break
        del kept[int(part.argmin())]
    found = np.zeros(rows.shape[1])
    found[kept] = part
    return found
