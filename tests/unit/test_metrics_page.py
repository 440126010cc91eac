"""docs/metrics.md names every metric that the services expose, and none that they do not."""

import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from sagellm.ingress.metrics import Metrics
from sagellm.scheduler.estimates import Estimates
from sagellm.scheduler.metrics import SchedulerMetrics
from sagellm.scheduler.policies import Fifo
from sagellm.worker.metrics import Counters, EngineCollector
from sagellm_schemas import EngineState, EngineStats, InstanceInfo, InstanceStats, SpeculationStats

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
UNITS = ("_seconds", "_total", "_tokens", "_ratio", "_requests", "_blocks", "_blocks_free", "_bytes")
STATS = EngineStats(gpu_utilization=0.5, step_ms_total=1.0, speculation=SpeculationStats())
UNITLESS = {"policy", "leader", "ready", "in_flight", "instances", "queue_length"}


def exposed() -> dict[str, list[tuple[str, str, str, str]]]:
    """Of each service: name as queries use it, type, labels, help."""
    scheduler = SchedulerMetrics()
    scheduler.waiting.labels("m").set(1)
    scheduler.instances.labels("m", "ready").set(1)
    scheduler.decided("fifo", 1e-5, 1)
    scheduler.refused("user_queue")
    scheduler.estimates = Estimates()
    scheduler.uses(Fifo())
    scheduler.utilization.gpus = 0.5
    ingress = Metrics()
    ingress.model("m")
    ingress.count("chat", 200)
    worker = Counters()
    info = InstanceInfo(instance_id="w", model="m")
    heartbeat = InstanceStats(info=info, state=EngineState.READY, running={}, stats=STATS)
    worker.registry.register(EngineCollector(lambda: heartbeat))
    registries = {"Ingress": ingress.registry, "Scheduler": scheduler.registry, "Worker": worker.registry}
    return {service: sorted(_rows(registry)) for service, registry in registries.items()}


def _rows(registry: CollectorRegistry) -> list[tuple[str, str, str, str]]:
    rows = []
    for family in registry.collect():
        labels = sorted({label for sample in family.samples for label in sample.labels} - {"le"})
        name = family.name + "_total" * (family.type == "counter")
        rows.append((f"`{name}`", family.type, ", ".join(labels), family.documentation))
    return rows


def _documented(service: str) -> list[tuple[str, ...]]:
    section = PAGE.read_text().split(f"\n## {service}\n")[1].split("\n## ")[0]
    rows = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in section.splitlines()]
    return sorted(row for row in rows if row[0].startswith("`sagellm_"))


@pytest.mark.parametrize("service", ["Ingress", "Scheduler", "Worker"])
def test_the_page_is_what_the_service_exposes(service: str) -> None:
    assert _documented(service) == exposed()[service]


def test_names_have_our_prefix_and_a_unit_and_no_label_names_a_user() -> None:
    for rows in exposed().values():
        for name, kind, labels, _ in rows:
            matched = re.fullmatch(r"`sagellm_(ingress|scheduler|worker|engine)_(\w+)`", name)
            assert matched, name
            assert name.strip("`").endswith(UNITS) or matched[2] in UNITLESS, name
            assert kind != "counter" or name.endswith("_total`")
            assert not {"user", "user_id", "id", "request", "request_id"} & set(labels.split(", "))
