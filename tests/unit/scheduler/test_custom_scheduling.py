"""The text of docs/custom-scheduling.md, run."""

import re
import tomllib
import types
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from sagellm.scheduler import plugins
from sagellm.scheduler.instances import Instances
from sagellm.scheduler.policies import make_policy
from sagellm.scheduler.queue import RequestQueue
from sagellm.scheduler.routing import make_router
from sagellm_schemas import EngineState, EngineStats, InstanceInfo, InstanceStats

from .making import make_request

TEXT = (Path(__file__).parents[3] / "docs" / "custom-scheduling.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's code as an installed module, found by the page's entry points."""
    module = types.ModuleType("my_scheduling")
    exec("\n".join(blocks("python")), module.__dict__)
    monkeypatch.setitem(__import__("sys").modules, "my_scheduling", module)
    (toml,) = blocks("toml")
    groups = tomllib.loads(toml)["project"]["entry-points"]
    entries = {
        group: [EntryPoint(name, value, group) for name, value in named.items()] for group, named in groups.items()
    }
    monkeypatch.setattr(plugins, "entry_points", lambda group: entries[group])


@pytest.mark.usefixtures("installed")
def test_the_pages_policy_orders_a_queue() -> None:
    queue = RequestQueue(make_policy("short_prompts"))
    for sequence, tokens in enumerate((900, 10, 5000, 5000)):
        queue.push(make_request(sequence, prompt_tokens=tokens), 0.0)
    queue.push(make_request(100, arrival_s=200.0), 0.0)
    popped = [queue.pop(300.0) for _ in range(5)]
    assert [request and request.sequence for request in popped] == [1, 0, 2, 3, 100]


@pytest.mark.usefixtures("installed")
def test_the_pages_routing_strategy_chooses_an_instance() -> None:
    instances = Instances()
    for name in ("a", "b"):
        info = InstanceInfo(instance_id=name, model="m", max_concurrent_requests=8)
        instances.heard(InstanceStats(info=info, state=EngineState.READY, running={}, stats=EngineStats()), 0.0)
    router, candidates = make_router("fewest_tokens"), instances.with_credit("m")
    first = router.choose(make_request(1), candidates)
    first.assign("r1", 1, 5000)
    second = router.choose(make_request(2), candidates)
    assert second is not first
    second.assign("r2", 2, 10)
    assert router.choose(make_request(3), candidates) is second


def test_the_pages_classes_take_about_twenty_lines() -> None:
    assert all(len(code.splitlines()) <= 22 for code in blocks("python"))
