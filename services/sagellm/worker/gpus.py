"""How busy the GPUs under this worker are, as their driver tells (NVML)."""

import ctypes
import logging
import os
from collections.abc import Mapping
from typing import Protocol
from urllib.parse import urlsplit

from sagellm.settings import Settings

logger = logging.getLogger(__name__)

LIBRARY = "libnvidia-ml.so.1"
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Nvml(Protocol):
    """The functions of NVML that are called; all return 0 if they succeed."""

    def nvmlInit_v2(self) -> int: ...  # noqa: N802
    def nvmlDeviceGetCount_v2(self, count: object) -> int: ...  # noqa: N802
    def nvmlDeviceGetHandleByIndex_v2(self, index: object, handle: object) -> int: ...  # noqa: N802
    def nvmlDeviceGetHandleByUUID(self, uuid: bytes, handle: object) -> int: ...  # noqa: N802
    def nvmlDeviceGetUtilizationRates(self, handle: object, rates: object) -> int: ...  # noqa: N802


class _Rates(ctypes.Structure):
    """Percent of the driver's last sample period (a sixth of a second to one second) in which any kernel ran, or
    memory was read or written."""

    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class Gpus:
    """Some GPUs of this machine."""

    def __init__(self, nvml: Nvml, handles: list[ctypes.c_void_p]) -> None:
        self._nvml = nvml
        self._handles = handles

    def utilization(self) -> float | None:
        """The share of time in which kernels ran, 0 to 1, on average; None where the driver does not tell."""
        rates = _Rates()
        found = [
            rates.gpu / 100
            for handle in self._handles
            if self._nvml.nvmlDeviceGetUtilizationRates(handle, ctypes.byref(rates)) == 0
        ]
        return sum(found) / len(found) if found else None


def gpus_of(settings: Settings) -> Gpus | None:
    """The GPUs that a worker with these settings computes on, which are those of a vLLM server on this machine.

    None if there are none, or if they are elsewhere.
    """
    local = settings.engine == "vllm" and urlsplit(settings.vllm_url).hostname in LOOPBACK
    if not local:
        return None
    try:
        nvml = ctypes.CDLL(LIBRARY)
    except OSError:
        return None
    return open_gpus(nvml, os.environ)


def open_gpus(nvml: Nvml, environment: Mapping[str, str]) -> Gpus | None:
    """The GPUs that `CUDA_VISIBLE_DEVICES` names by number or UUID, or all there are; None if there are none."""
    if nvml.nvmlInit_v2() != 0:
        return None
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        count = ctypes.c_uint()
        if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
            return None
        names = [str(index) for index in range(count.value)]
    else:
        names = [name.strip() for name in visible.split(",") if name.strip()]
    handles = []
    for name in names:
        handle = ctypes.c_void_p()
        if name.isdigit():
            failed = nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(int(name)), ctypes.byref(handle))
        else:
            failed = nvml.nvmlDeviceGetHandleByUUID(name.encode(), ctypes.byref(handle))
        if failed:
            logger.warning("the driver knows no GPU %s; its utilization is not measured", name)
        else:
            handles.append(handle)
    return Gpus(nvml, handles) if handles else None
