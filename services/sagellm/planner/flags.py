"""The commands that start a layout: vLLM servers, one per replica, and a sageLLM worker in front of each."""

import shlex

import msgspec

from .candidates import Formats
from .layout import Layout
from .memory import UTILIZATION
from .placement import machine_and_devices
from .workload import Workload

FIRST_PORT = 8001
_QUANTIZATION = {"fp8": "fp8", "int8": "", "int4": ""}
"""What vLLM can quantize to while it loads; a checkpoint in int8 or int4 says so itself."""


def vllm_flags(layout: Layout, workload: Workload, formats: Formats, checkpoint_dtype: str) -> list[str]:
    """Flags of `vllm serve` for one replica."""
    flags = ["--tensor-parallel-size", str(layout.tp), "--pipeline-parallel-size", str(layout.pp)]
    if layout.ep > 1:
        flags += ["--data-parallel-size", str(layout.ep), "--enable-expert-parallel"]
    flags += [
        *("--max-model-len", str(workload.context_tokens)),
        *("--max-num-seqs", str(workload.max_seqs)),
        *("--max-num-batched-tokens", str(workload.step_tokens)),
        *("--gpu-memory-utilization", f"{UTILIZATION:g}"),
    ]
    if formats.dtype in _QUANTIZATION:
        if formats.dtype != checkpoint_dtype and _QUANTIZATION[formats.dtype]:
            flags += ["--quantization", _QUANTIZATION[formats.dtype]]
    else:
        flags += ["--dtype", formats.dtype]
    if formats.kv_dtype == "fp8":
        flags += ["--kv-cache-dtype", "fp8"]
    return flags


class Commands(msgspec.Struct, frozen=True, kw_only=True):
    """What starts one replica. `machine` counts from 0; None: on several, with vLLM's multi-node set-up."""

    machine: int | None
    vllm: str
    worker: str


def commands(
    model: str, layout: Layout, workload: Workload, formats: Formats, checkpoint_dtype: str, per_node: int
) -> list[Commands]:
    """For every replica, the command of its vLLM server and that of its worker beside it."""
    flags = vllm_flags(layout, workload, formats, checkpoint_dtype)
    made = []
    for replica in range(layout.dp):
        machine, devices = None, range(0)
        if layout.replica_gpus <= per_node:
            machine, devices = machine_and_devices(replica, layout.replica_gpus, per_node)
        port = FIRST_PORT + (devices.start // layout.replica_gpus)
        server = shlex.join(["vllm", "serve", model, *flags, "--port", str(port)])
        if layout.dp > 1 and machine is not None:
            server = f"CUDA_VISIBLE_DEVICES={','.join(map(str, devices))} {server}"
        worker = shlex.join(worker_flags(model, port, workload))
        made.append(Commands(machine=machine, vllm=server, worker=worker))
    return made


def worker_flags(model: str, port: int, workload: Workload) -> list[str]:
    """The command of the worker in front of the vLLM server at `port`."""
    url = f"http://127.0.0.1:{port}"
    return [
        *("sagellm", "worker", "--engine", "vllm", "--vllm-url", url, "--model", model),
        *("--max-model-len", str(workload.context_tokens), "--max-num-seqs", str(workload.max_seqs)),
    ]
