"""A worker makes its adapters known, and runs requests that ask for them."""

import pytest
from nats.js.errors import KeyNotFoundError

from sagellm.broker import Connection
from sagellm.settings import Settings
from sagellm.worker.engines import make_engine
from sagellm_schemas import (
    JSON,
    Codec,
    Failed,
    InstanceInfo,
    ModelCard,
    Outcome,
    SamplingParams,
    SettingsError,
    encode,
    subjects,
)

from .driver import Driver, working

FIVE = SamplingParams(max_tokens=5)


@pytest.fixture
def adapted(mock: Settings) -> Settings:
    return mock.model_copy(update={"adapters": {"org/poet": "anywhere", "clerk": "anywhere"}})


async def test_each_adapter_has_a_card_that_names_its_model(
    adapted: Settings, driver: Driver, connection: Connection
) -> None:
    async with working(adapted, driver):
        bucket, codec = await connection.js.key_value(subjects.MODELS_BUCKET), Codec(ModelCard)
        cards = [codec.decode((await bucket.get(key)).value or b"", JSON) for key in ("mock", "org_poet", "clerk")]
        beat = driver.heartbeats.seen[-1]
    assert [(card.name, card.parent) for card in cards] == [("mock", ""), ("org/poet", "mock"), ("clerk", "mock")]
    assert len({card.tokenizer for card in cards}) == 1
    assert beat.info.adapters == ["org/poet", "clerk"]


async def test_it_runs_its_adapters_and_refuses_others(adapted: Settings, driver: Driver) -> None:
    async with working(adapted, driver):
        await driver.give("a", adapter="clerk", sampling=FIVE)
        assert (await driver.ended("a")).outcome is Outcome.FINISHED
        await driver.give("b", adapter="priest", sampling=FIVE)
        assert (await driver.ended("b")).outcome is Outcome.FAILED
    [event] = driver.events_of("b")
    assert isinstance(event, Failed)
    assert event.error.message == "there is no adapter 'priest'"


async def test_an_adapter_may_not_have_the_name_of_another_model_that_is_served(
    mock: Settings, driver: Driver, connection: Connection
) -> None:
    clash = mock.model_copy(update={"adapters": {"mock": "anywhere"}})
    with pytest.raises(SettingsError, match="the adapter 'mock' must have another name: mock is served under it"):
        async with working(clash, driver):
            pass
    clash = mock.model_copy(update={"adapters": {"a.poet": "anywhere", "a_poet": "anywhere"}})
    with pytest.raises(SettingsError, match=r"the adapter 'a_poet' must have another name: a\.poet is served"):
        async with working(clash, driver):
            pass
    other = InstanceInfo(instance_id="w9", model="other", adapters=["poet"])
    instances = await connection.js.key_value(subjects.INSTANCES_BUCKET)
    await instances.put("w9", encode(other, JSON))
    clash = mock.model_copy(update={"adapters": {"poet": "anywhere"}})
    with pytest.raises(SettingsError, match="poet, an adapter of other is served under it"):
        async with working(clash, driver):
            pass
    models = await connection.js.key_value(subjects.MODELS_BUCKET)
    with pytest.raises(KeyNotFoundError):
        await models.get("poet")


def test_a_vllm_server_is_given_its_adapters_itself(adapted: Settings) -> None:
    with pytest.raises(SettingsError, match="a vLLM server tells its adapters itself"):
        make_engine(adapted.model_copy(update={"engine": "vllm"}))
