"""Small scenarios for tests."""

from typing import Any

from sagellm.simulator.cluster import ClusterPlan
from sagellm.simulator.scenario import Scenario
from sagellm.simulator.traces import TraceRequest

from .making import BLOCK, linear_cost


def scenario_of(requests: list[TraceRequest] | None = None, **changes: Any) -> Scenario:
    """Sixty requests a second apart at one instance, unless `changes` of the scenario or of the plan say else."""
    plan = ClusterPlan.__dataclass_fields__.keys() & changes.keys()
    cluster = ClusterPlan(
        **{"cost": linear_cost(), "block_size": BLOCK} | {name: changes.pop(name) for name in plan}
    )
    if requests is None:
        requests = [
            TraceRequest(arrival_s=float(i), input_tokens=20 + 7 * (i % 5), output_tokens=1 + i % 9)
            for i in range(60)
        ]
    return Scenario(**{"requests": requests, "plan": cluster, "ttft_slo_ms": 200.0, "tbt_slo_ms": 90.0} | changes)
