"""ops/: what Grafana and Prometheus are told exists."""

import json
import re
from pathlib import Path

from .test_metrics_page import exposed

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "ops" / "grafana" / "dashboards" / "sagellm.json"
SAMPLES = {"histogram": ("_bucket", "_sum", "_count")}


def _series() -> dict[str, set[str]]:
    """Every name that a query may use, with its labels."""
    found = {}
    for rows in exposed().values():
        for name, kind, labels, _ in rows:
            for suffix in SAMPLES.get(kind, ("",)):
                found[name.strip("`") + suffix] = set(labels.split(", ")) | {"instance", "job", "le"}
    return found


def _queries() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


def test_every_metric_that_the_dashboard_asks_for_is_exposed() -> None:
    known = _series()
    for query in _queries():
        names = re.findall(r"sagellm_\w+", query)
        assert names, query
        assert not set(names) - known.keys(), query


def test_every_label_that_the_dashboard_groups_by_is_one_of_the_metric() -> None:
    known = _series()
    for query in _queries():
        for labels, inner in re.findall(r"by \(([\w, ]+)\) \((.*)", query):
            name = re.search(r"sagellm_\w+", inner)
            assert name is not None
            assert set(labels.split(", ")) <= known[name[0]], query


def test_counters_are_asked_for_their_rate() -> None:
    for query in _queries():
        for name in re.findall(r"\w+_(?:total|bucket)\b", query):
            assert re.search(rf"(?:rate|increase)\({name}\[", query), query


def test_the_dashboard_reads_the_data_source_that_is_provisioned() -> None:
    provisioned = (ROOT / "ops/grafana/provisioning/datasources/prometheus.yml").read_text()
    (uid,) = re.findall(r"uid: (\S+)", provisioned)
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert {target["datasource"]["uid"] for panel in panels for target in panel["targets"]} == {uid}
