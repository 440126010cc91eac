"""What is told of GPUs, of a driver that is made up."""

import ctypes

import pytest

from sagellm.settings import Settings
from sagellm.worker.gpus import gpus_of, open_gpus


class Driver:
    """NVML with some GPUs, busy so many percent; one of None does not tell."""

    def __init__(self, *percent: int | None) -> None:
        self.percent = percent

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlDeviceGetCount_v2(self, count: object) -> int:
        count._obj.value = len(self.percent)
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: ctypes.c_uint, handle: object) -> int:
        handle._obj.value = index.value + 1
        return 0 if index.value < len(self.percent) else 2

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes, handle: object) -> int:
        handle._obj.value = int(uuid.removeprefix(b"GPU-")) + 1
        return 0

    def nvmlDeviceGetUtilizationRates(self, handle: ctypes.c_void_p, rates: object) -> int:
        percent = self.percent[handle.value - 1]
        if percent is None:
            return 3
        rates._obj.gpu = percent
        return 0


@pytest.mark.parametrize(
    ("visible", "share"), [(None, 0.5), ("1", 0.75), ("0,1", 0.5), ("GPU-1", 0.75), ("7", None), ("", None)]
)
def test_only_visible_gpus_count(visible: str | None, share: float | None) -> None:
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    gpus = open_gpus(Driver(25, 75), environment)
    assert (gpus and gpus.utilization()) == share


def test_a_gpu_that_does_not_tell_is_left_out() -> None:
    assert open_gpus(Driver(None, 30), {}).utilization() == 0.3
    assert open_gpus(Driver(None), {}).utilization() is None


@pytest.mark.parametrize("given", [{"engine": "mock"}, {"engine": "sagellm"}])
def test_an_engine_on_the_cpu_claims_no_gpu(given: dict[str, str]) -> None:
    assert gpus_of(Settings.load(**given)) is None


def test_a_vllm_server_elsewhere_has_gpus_that_this_machine_cannot_see() -> None:
    assert gpus_of(Settings.load(engine="vllm", vllm_url="http://gpu-7:8000")) is None
