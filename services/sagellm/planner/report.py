"""A plan as tables for people, and as one JSON object for programs."""

import sys

import msgspec
from rich.console import Console
from rich.table import Table

from .candidates import Candidate
from .choose import Rated
from .find_model import servable
from .flags import Commands, commands, vllm_flags
from .memory import GIB
from .order import Plan

SHOWN = 12
SHOWN_COMMANDS = 4
FILE_WIDTH = 120


def print_tables(plan: Plan, *, show_all: bool) -> None:
    """To stdout: the candidates and their reasons, what is impossible, the choice, and its commands."""
    console = Console() if sys.stdout.isatty() else Console(width=FILE_WIDTH)
    choice = plan.choice
    shown = choice.rated if show_all else choice.rated[:SHOWN]
    console.print(_heading(plan))
    console.print(_table([_fitting_row(rated) for rated in shown]))
    if len(shown) < len(choice.rated):
        console.print(f"and {len(choice.rated) - len(shown)} more that fit (--all shows them)")
    unfit = choice.unfit if show_all else choice.unfit[:SHOWN]
    for candidate in unfit:
        console.print(f"does not fit: {candidate.layout}: {candidate.unfit}")
    if len(unfit) < len(choice.unfit):
        console.print(f"and {len(choice.unfit) - len(unfit)} more that do not fit")
    impossible = list(choice.impossible)
    for reason in impossible if show_all else impossible[:SHOWN]:
        console.print(f"impossible: {reason}")
    if len(impossible) > SHOWN and not show_all:
        console.print(f"and {len(impossible) - SHOWN} more that are impossible")
    for line in _conclusion(plan):
        console.print(line, highlight=False, soft_wrap=True)


def print_json(plan: Plan) -> None:
    """To stdout, as one object."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(as_json(plan)), indent=2).decode() + "\n")


def as_json(plan: Plan) -> dict[str, object]:
    """Everything, with derived figures in place."""
    choice, chosen = plan.choice, plan.choice.chosen
    return {
        "model": {
            "name": plan.shape.name,
            "total_params": plan.shape.total_params,
            "active_params": plan.shape.active_params,
            "shape": plan.shape,
        },
        "gpu": plan.gpu,
        "gpus": plan.gpus,
        "workload": plan.workload,
        "formats": plan.formats,
        "objective": plan.objective,
        "chosen": _facts(chosen) | {"why": choice.rated[0].why},
        "gpus_needed_for_rate": choice.gpus_needed,
        "candidates": [_facts(rated.candidate) | {"why": rated.why} for rated in choice.rated],
        "unfit": [_facts(candidate) | {"why": candidate.unfit} for candidate in choice.unfit],
        "impossible": {reason: [str(layout) for layout in found] for reason, found in choice.impossible.items()},
        "vllm_flags": vllm_flags(chosen.layout, plan.workload, plan.formats, plan.shape.dtype),
        "commands": _commands(plan),
    }


def _facts(candidate: Candidate) -> dict[str, object]:
    layout, needs = candidate.layout, candidate.memory
    return {
        "tensor_parallel_size": layout.tp,
        "pipeline_parallel_size": layout.pp,
        "data_parallel_size": layout.dp,
        "expert_parallel_size": layout.ep,
        "kind": layout.kind,
        "gpus": layout.gpus,
        "memory_gib": {
            "usable": needs.usable_bytes / GIB,
            "weights": needs.weight_bytes / GIB,
            "activations": needs.activation_bytes / GIB,
            "overhead": needs.overhead_bytes / GIB,
            "kv_cache": max(0, needs.kv_bytes) / GIB,
        },
        "kv_tokens": needs.kv_tokens,
        "forecast": candidate.forecast,
    }


def _heading(plan: Plan) -> str:
    shape, gpu, w = plan.shape, plan.gpu, plan.workload
    params = f"{shape.total_params / 1e9:.1f}B parameters"
    if shape.experts is not None:
        params += f", {shape.active_params / 1e9:.1f}B of them active"
    load = f"{w.input_tokens} tokens in, {w.output_tokens} out"
    if w.rate_per_s:
        load += f", {w.rate_per_s:g} requests/s"
    return (
        f"{shape.name}: {params}, {plan.formats.dtype}, on {plan.gpus} x {gpu.name} of {gpu.memory_gib:g} GiB; "
        f"{load}; context {w.context_tokens}"
    )


def _table(rows: list[tuple[str, ...]]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("layout", no_wrap=True)
    for name in ("GPUs", "weights\nGiB", "KV\nGiB", "at\nonce", "TTFT\nms", "TPOT\nms", "\nreq/s"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("why")
    for row in rows:
        table.add_row(*row)
    return table


def _fitting_row(rated: Rated) -> tuple[str, ...]:
    candidate = rated.candidate
    told, needs = candidate.forecast, candidate.memory
    assert told is not None
    return (
        str(candidate.layout),
        str(candidate.layout.gpus),
        f"{needs.weight_bytes / GIB:.1f}",
        f"{needs.kv_bytes / GIB:.1f}",
        str(told.room),
        f"{told.ttft_ms:.0f}",
        f"{told.tpot_ms:.1f}",
        f"{told.capacity_per_s:.2f}",
        rated.why,
    )


def _conclusion(plan: Plan) -> list[str]:
    choice = plan.choice
    layout, told = choice.chosen.layout, choice.chosen.forecast
    assert told is not None
    lines = [f"\n{layout} ({choice.rated[0].why})"]
    if not told.sufficient:
        lines.append(f"None of them carries the load within its goals: {choice.rated[0].why}.")
    if choice.gpus_needed is not None and choice.gpus_needed != plan.gpus:
        few = "would be enough" if choice.gpus_needed < plan.gpus else "would be needed"
        lines.append(f"{choice.gpus_needed} of these GPUs {few} for {plan.workload.rate_per_s:g} requests/s.")
    elif plan.workload.rate_per_s and choice.gpus_needed is None:
        lines.append("No number of these GPUs that was tried carries it; relax the goals or take faster GPUs.")
    if layout.gpus < plan.gpus:
        lines.append(f"{plan.gpus - layout.gpus} GPUs are left over.")
    made = _commands(plan)
    for made_one in made[:SHOWN_COMMANDS]:
        if made_one.machine is None:
            lines.append(
                f"  # on machines that have {layout.replica_gpus} GPUs together, in vLLM's multi-node set-up"
            )
        elif plan.gpus > plan.gpu.per_node:
            lines.append(f"  # on machine {made_one.machine + 1}")
        lines += [f"  {made_one.vllm}", f"  {made_one.worker}"]
    if len(made) > SHOWN_COMMANDS:
        lines.append(f"  … and {len(made) - SHOWN_COMMANDS} more pairs like these (--json has all)")
    return lines


def _commands(plan: Plan) -> list[Commands]:
    return commands(
        servable(plan.model),
        plan.choice.chosen.layout,
        plan.workload,
        plan.formats,
        plan.shape.dtype,
        plan.gpu.per_node,
    )
