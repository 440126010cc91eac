"""Which instances can take a request with an adapter, and what routing takes their caches to hold."""

from sagellm.scheduler.candidates import Candidates
from sagellm.scheduler.instances import Instances
from sagellm.scheduler.management.outlook import Outlook
from sagellm.scheduler.phases import Phase
from sagellm.scheduler.prefixes import PrefixIndex
from sagellm.scheduler.routing.prefix_aware import PrefixAware
from sagellm_schemas import EngineState, EngineStats, InstanceInfo, InstanceRole, InstanceStats
from sagellm_schemas.prefix import ROOT, root_of, short_hashes

from .making import make_instance, make_request


def heard(instances: Instances, name: str, *adapters: str, role: InstanceRole = InstanceRole.GENERAL) -> None:
    info = InstanceInfo(instance_id=name, model="m", adapters=list(adapters), role=role)
    instances.heard(InstanceStats(info=info, state=EngineState.READY, running={}, stats=EngineStats()), 0.0)


def names(candidates: Candidates) -> set[str]:
    return {instance.id for instance in candidates}


def test_only_instances_with_its_adapter_can_take_a_request() -> None:
    instances = Instances()
    heard(instances, "both", "poet", "clerk")
    heard(instances, "one", "poet")
    heard(instances, "none")
    assert names(instances.with_credit("m")) == {"both", "one", "none"}
    assert names(instances.with_credit("m", Phase.WHOLE, "poet")) == {"both", "one"}
    assert names(instances.with_credit("m", Phase.WHOLE, "clerk")) == {"both"}
    both = instances.get("both")
    assert both is not None
    instances.forget(both)
    assert names(instances.with_credit("m", Phase.WHOLE, "poet")) == {"one"}
    assert not instances.with_credit("m", Phase.WHOLE, "clerk")


def test_a_model_lacks_an_adapter_if_none_of_its_instances_has_it() -> None:
    instances = Instances()
    assert not instances.lacks_adapter("m", "poet")  # nothing is known of the model yet
    heard(instances, "one", "poet", role=InstanceRole.PREFILLING)
    assert not instances.lacks_adapter("m", "poet")
    assert not instances.lacks_adapter("m", None)
    assert instances.lacks_adapter("m", "clerk")


def test_an_instance_that_tells_of_another_adapter_can_be_sent_it() -> None:
    instances = Instances()
    heard(instances, "w", "poet")
    heard(instances, "w", "clerk")
    assert instances.lacks_adapter("m", "poet")
    assert names(instances.with_credit("m", Phase.WHOLE, "clerk")) == {"w"}
    assert names(instances.with_credit("m")) == {"w"}


def test_what_is_cached_with_one_adapter_draws_no_request_with_another() -> None:
    index, tokens = PrefixIndex(), list(range(64))
    candidates = Candidates([make_instance("busy", 8), make_instance("idle", 8)], index)
    busy = candidates.get("busy")
    assert busy is not None
    busy.assign("other", 1)
    index.add("busy", short_hashes(tokens, index.block_size, 100, root_of("poet")))
    # The cached prompt is worth as much as one request beside: a little more decides.
    longer = [*tokens, *range(64)]
    index.add("busy", short_hashes(longer, index.block_size, 100, root_of("poet")))
    chosen = {
        adapter: PrefixAware().choose(make_request(1, prompt_token_ids=longer, adapter=adapter), candidates).id
        for adapter in ("poet", "clerk", None)
    }
    assert chosen == {"poet": "busy", "clerk": "idle", None: "idle"}


def test_every_adapter_has_a_root_of_its_own() -> None:
    roots = {root_of(name) for name in (None, "poet", "clerk")}
    assert len(roots) == 3
    assert root_of(None) == ROOT


def test_what_holds_up_a_request_with_an_adapter_is_told_of_its_instances() -> None:
    instances = Instances()
    heard(instances, "none")
    heard(instances, "one", "poet")
    one = instances.get("one")
    assert one is not None
    for number in range(one.capacity):
        one.assign(str(number), number)

    class Pd:
        def available(self, model: str, adapter: str | None = None) -> bool:
            return bool(instances.with_credit(model, Phase.WHOLE, adapter))

    outlook = Outlook("m", None, None, instances, Pd(), None)  # type: ignore[arg-type]
    told = {adapter: outlook.obstacle_of(make_request(1, adapter=adapter)) for adapter in (None, "poet", "clerk")}
    assert told[None] == ""
    assert told["poet"] == (
        "of those with the adapter 'poet' the only instance that takes work is full (100 of 100 places in use)"
    )
    assert told["clerk"] == "no instance of 'm' has the adapter 'clerk'"
