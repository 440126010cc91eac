"""Where a model runs is what the settings say, or a clear refusal."""

import pytest
import torch

from sagellm_engine.engine_config import EngineConfig
from sagellm_engine.execution.device import device_of
from sagellm_schemas import SettingsError


@pytest.fixture
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_a_machine_without_a_gpu_computes_on_its_cpu(without_gpu: None) -> None:
    assert device_of(EngineConfig(model="m")).type == "cpu"


@pytest.mark.parametrize(("setting", "value"), [("device", "cuda"), ("kv_cache_dtype", "fp8")])
def test_what_needs_a_gpu_is_refused_without_one(without_gpu: None, setting: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"{setting} is {value}") as refused:
        device_of(EngineConfig(model="m", **{setting: value}))
    assert refused.value.param == setting


def test_a_cpu_asked_for_is_taken_though_there_is_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_of(EngineConfig(model="m", device="cpu")).type == "cpu"
    assert device_of(EngineConfig(model="m", executor="torch")).type == "cpu"
