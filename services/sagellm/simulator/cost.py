"""What an engine step takes: a profile of the dense layers, plus reading KV, plus prefill attention."""

from bisect import bisect_left
from importlib import resources
from itertools import pairwise
from pathlib import Path

import msgspec

from sagellm_schemas import SettingsError

Profile = list[tuple[int, float]]


class CostModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model on one kind of instance; what a cost model's JSON file holds.

    `dense_ms` are rows (tokens, ms) of a step's dense layers, `lm_head_ms` the same of the LM head, by the number
    of positions that are sampled. `attention_flop_per_pair` are the operations of one token that attends to one
    other. `kv_tokens`, `max_num_seqs` and `max_batched_tokens` are how such an instance is run. `origin` says
    where the numbers are from.
    """

    name: str
    dense_ms: Profile
    lm_head_ms: Profile = []
    kv_bytes_per_token: float = 0.0
    kv_read_bytes_per_s: float = 1.0
    attention_flop_per_pair: float = 0.0
    attention_flop_per_s: float = 1.0
    overhead_ms: float = 0.0
    kv_tokens: int
    max_num_seqs: int = 64
    max_batched_tokens: int = 512
    origin: str = ""

    def verify(self) -> None:
        """Check ranges.

        Raises:
            SettingsError: naming what is wrong.
        """
        for name, profile in (("dense_ms", self.dense_ms), ("lm_head_ms", self.lm_head_ms)):
            tokens = [row[0] for row in profile]
            if any(a >= b for a, b in pairwise(tokens)) or (tokens and tokens[0] < 1):
                raise SettingsError(f"{name} must have rising numbers of tokens from 1 on")
            if any(not 0 <= row[1] < float("inf") for row in profile):
                raise SettingsError(f"{name} must have times of 0 ms or more")
        if not self.dense_ms:
            raise SettingsError("dense_ms must have rows")
        for name in ("kv_bytes_per_token", "attention_flop_per_pair", "overhead_ms"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise SettingsError(f"{name} must not be negative")
        for name in (
            "kv_read_bytes_per_s",
            "attention_flop_per_s",
            "kv_tokens",
            "max_num_seqs",
            "max_batched_tokens",
        ):
            if not 0 < getattr(self, name) < float("inf"):
                raise SettingsError(f"{name} must be greater than 0")


class StepClock:
    """A cost model ready to be asked often: its profiles as tables up to `max_tokens` a step. Times in seconds."""

    def __init__(self, cost: CostModel, max_tokens: int) -> None:
        head = cost.lm_head_ms or [(1, 0.0)]
        self._dense_s = [(interpolate(cost.dense_ms, n) + cost.overhead_ms) / 1000 for n in range(max_tokens + 1)]
        self._head_s = [interpolate(head, n) / 1000 if n else 0.0 for n in range(max_tokens + 1)]
        self.kv_read_s = cost.kv_bytes_per_token / cost.kv_read_bytes_per_s
        self.pair_s = cost.attention_flop_per_pair / cost.attention_flop_per_s

    def step_s(self, tokens: int, sampled: int, kv_tokens: int, pairs: float) -> float:
        """A step that computes `tokens`, samples at `sampled` positions, reads the KV of `kv_tokens`, and in whose
        prompts `pairs` of tokens attend to one another."""
        return self._dense_s[tokens] + self._head_s[sampled] + kv_tokens * self.kv_read_s + pairs * self.pair_s


def interpolate(profile: Profile, tokens: int) -> float:
    """Linear between the rows, and on along the last two beyond them; below the first row as there.

    It never falls below 0.
    """
    place = bisect_left(profile, tokens, key=lambda row: row[0])
    if place == 0 or len(profile) == 1:
        return profile[0][1]
    (x0, y0), (x1, y1) = profile[place - 1 : place + 1] if place < len(profile) else profile[-2:]
    return max(0.0, y0 + (y1 - y0) * (tokens - x0) / (x1 - x0))


def load_cost_model(name: str) -> CostModel:
    """A built-in cost model, or that of a JSON file.

    Raises:
        SettingsError: there is none of that name, or the file is wrong.
    """
    folder = resources.files(__package__) / "cost_models"
    built_in = {Path(entry.name).stem: entry for entry in folder.iterdir() if entry.name.endswith(".json")}
    try:
        data = built_in[name].read_bytes() if name in built_in else Path(name).read_bytes()
    except OSError as error:
        known = ", ".join(sorted(built_in))
        raise SettingsError(
            f"there is no cost model {name!r} ({error.strerror}); give a JSON file, or one of {known}"
        ) from None
    try:
        cost = msgspec.json.decode(data, type=CostModel)
        cost.verify()
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise SettingsError(f"the cost model {name} cannot be used: {error}") from None
    except SettingsError as error:
        raise SettingsError(f"the cost model {name} cannot be used: {error.message}") from None
    return cost
