"""The simulated instances, as the scheduler sees them and as they work."""

from dataclasses import dataclass

from sagellm.scheduler.instances import Instances
from sagellm_schemas import EngineState, InstanceInfo, InstanceRole, InstanceStats, SettingsError

from .cost import CostModel, StepClock
from .engine import SimulatedEngine
from .kv import KvCache

MODEL = "simulated"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterPlan:
    """Which instances there are. `None` means: as the cost model says.

    `instances` run whole requests, `prefill` and `decode` are the halves of split ones. `prices_per_hour` are
    given to the instances in turn. KV moves at `transfer_bytes_per_s`.
    """

    cost: CostModel
    instances: int = 1
    prefill: int = 0
    decode: int = 0
    transfer_bytes_per_s: float = 10e9
    max_num_seqs: int | None = None
    max_batched_tokens: int | None = None
    kv_tokens: int | None = None
    block_size: int = 16
    prefix_caching: bool = True
    prices_per_hour: tuple[float, ...] = (0.0,)

    def verify(self) -> None:
        """Check ranges.

        Raises:
            SettingsError: naming what is wrong.
        """
        if self.seqs > self.budget:
            raise SettingsError(
                f"a step of {self.budget} tokens cannot decode {self.seqs} requests; "
                "raise --max-batched-tokens or lower --max-num-seqs"
            )
        if not self.instances and not (self.prefill and self.decode):
            raise SettingsError("there must be an instance: give --instances, or --prefill and --decode")
        if bool(self.prefill) != bool(self.decode):
            raise SettingsError("--prefill and --decode go together")
        if self.num_blocks < 1:
            raise SettingsError(f"the KV cache must hold at least one block of {self.block_size} tokens")

    @property
    def seqs(self) -> int:
        """Requests that run at once in an instance."""
        return self.max_num_seqs or self.cost.max_num_seqs

    @property
    def budget(self) -> int:
        """Tokens of a step."""
        return self.max_batched_tokens or self.cost.max_batched_tokens

    @property
    def roles(self) -> list[InstanceRole]:
        """The role of every instance."""
        return (
            [InstanceRole.GENERAL] * self.instances
            + [InstanceRole.PREFILLING] * self.prefill
            + [InstanceRole.DECODING] * self.decode
        )

    @property
    def transfer_s_per_token(self) -> float:
        """How long the KV of a token travels."""
        return self.cost.kv_bytes_per_token / self.transfer_bytes_per_s

    @property
    def num_blocks(self) -> int:
        """KV blocks of an instance."""
        return (self.kv_tokens or self.cost.kv_tokens) // self.block_size


class Cluster:
    """Engines by instance id, and what the scheduler knows of them."""

    def __init__(self, plan: ClusterPlan) -> None:
        plan.verify()
        self.known = Instances()
        self.engines: dict[str, SimulatedEngine] = {}
        self._infos: dict[str, InstanceInfo] = {}
        clock = StepClock(plan.cost, plan.budget)
        for number, role in enumerate(plan.roles):
            info = InstanceInfo(
                instance_id=f"{role}-{number + 1}",
                model=MODEL,
                role=role,
                engine="simulated",
                max_concurrent_requests=plan.seqs,
                max_batched_tokens=plan.budget,
                price_per_hour=plan.prices_per_hour[number % len(plan.prices_per_hour)],
            )
            self._infos[info.instance_id] = info
            self.engines[info.instance_id] = SimulatedEngine(
                clock,
                KvCache(plan.num_blocks, plan.block_size, sharing=plan.prefix_caching),
                max_num_seqs=plan.seqs,
                max_batched_tokens=plan.budget,
            )

    def heartbeats(self) -> list[InstanceStats]:
        """What every instance tells of itself now."""
        return [
            InstanceStats(info=info, state=EngineState.READY, running={}, stats=self.engines[id_].stats())
            for id_, info in self._infos.items()
        ]
