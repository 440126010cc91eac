"""GPUs: what a kind of GPU and the links between them can do, from data sheets or from a file."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import msgspec

from sagellm_schemas import InvalidRequest


class Gpu(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One kind of GPU, as machines with `per_node` of them have it.

    Rates are peaks: dense (not sparse) products, and bytes per second in one direction. `link` is between GPUs of
    one machine (NVLink or PCIe), `network` between machines, per GPU. Latencies are those of one collective.
    """

    name: str
    memory_gib: float
    bf16_tflops: float
    fp8_tflops: float
    memory_gb_per_s: float
    link_gb_per_s: float
    link_latency_us: float = 10.0
    network_gb_per_s: float = 50.0
    network_latency_us: float = 25.0
    per_node: int = 8

    def verify(self) -> None:
        """Check ranges.

        Raises:
            InvalidRequest: naming the field.
        """
        for name in self.__struct_fields__[1:]:
            value = getattr(self, name)
            if not 0 < value < float("inf"):
                raise InvalidRequest(f"the GPU's {name} must be a number greater than 0; got {value}", param=name)


GPUS: Mapping[str, Gpu] = MappingProxyType(
    {
        gpu.name: gpu
        for gpu in (
            Gpu(
                name="h100",
                memory_gib=80,
                bf16_tflops=989,
                fp8_tflops=1979,
                memory_gb_per_s=3350,
                link_gb_per_s=450,
            ),
            Gpu(
                name="h200",
                memory_gib=141,
                bf16_tflops=989,
                fp8_tflops=1979,
                memory_gb_per_s=4800,
                link_gb_per_s=450,
            ),
            Gpu(
                name="a100",
                memory_gib=80,
                bf16_tflops=312,
                fp8_tflops=312,
                memory_gb_per_s=2039,
                link_gb_per_s=300,
                network_gb_per_s=25,
            ),
            Gpu(
                name="l40s",
                memory_gib=48,
                bf16_tflops=362,
                fp8_tflops=733,
                memory_gb_per_s=864,
                link_gb_per_s=32,
                link_latency_us=20,
                network_gb_per_s=12.5,
            ),
        )
    }
)
"""SXM boards of H100, H200 and A100 with NVLink; L40S on PCIe 4. From NVIDIA's data sheets."""


def find_gpu(name: str) -> Gpu:
    """The GPU called `name`, or the one described in the JSON file `name`.

    Raises:
        InvalidRequest: it is neither, or the file is wrong.
    """
    if name.lower() in GPUS:
        return GPUS[name.lower()]
    path = Path(name)
    if not path.is_file():
        raise InvalidRequest(
            f"there is no GPU {name!r}; choose one of {', '.join(GPUS)}, or give a JSON file that describes it",
            param="gpu",
        )
    try:
        gpu = msgspec.json.decode(path.read_bytes(), type=Gpu)
    except (OSError, msgspec.DecodeError) as error:
        raise InvalidRequest(f"the GPU file {name} cannot be used: {error}", param="gpu") from None
    gpu.verify()
    return gpu
