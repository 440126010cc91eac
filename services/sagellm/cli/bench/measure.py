"""The plan of a benchmark: warm up, then every target in turn, as often as asked, at each concurrency."""

from collections.abc import Callable, Sequence

import msgspec

from .load import Run
from .prompts import Prompts
from .summary import Summary, medians, summarize
from .targets import Shape, Target

WARM_UP_OUTPUT_TOKENS = 16


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to run. `requests` None means two rounds: twice the concurrency."""

    concurrency: list[int]
    input_tokens: int
    output_tokens: int
    repeat: int
    dataset: str
    vocab_size: int
    seed: int
    requests: int | None = None


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One target at one concurrency: the medians, each run's summary, and every sample."""

    label: str
    concurrency: int
    median: Summary
    summaries: list[Summary]
    runs: list[Run]

    def without_samples(self) -> "Result":
        """The same without the samples, which are most of what a file would hold."""
        return msgspec.structs.replace(self, runs=[])


async def measure(
    targets: Sequence[Target],
    plan: Plan,
    say: Callable[[str], None],
    keep: Callable[[list[Result]], None] = lambda _: None,
) -> list[Result]:
    """Run the plan. Targets alternate, so that whatever else the machine does falls on all of them.

    `keep` gets the results so far after each turn, for a benchmark that takes long enough to be cut off.
    """
    results: list[Result] = []
    for concurrency in plan.concurrency:
        requests = plan.requests or 2 * concurrency
        shape = Shape(requests=requests, concurrency=concurrency, output_tokens=plan.output_tokens)
        runs: dict[str, list[Run]] = {target.label: [] for target in targets}
        for target in targets:
            await _warm_up(target, plan, concurrency)
        for turn in range(plan.repeat):
            for target in _rotated(targets, turn):
                # The same prompts for each target, others in each turn: no prefix cache can help.
                run = await target.run(shape, _prompts(plan, seed=plan.seed + 1 + turn * 1000 + concurrency))
                runs[target.label].append(run)
                say(_progress(target.label, concurrency, turn + 1, plan.repeat, run))
            so_far = [_result(target.label, concurrency, runs[target.label]) for target in targets]
            keep([*results, *so_far])
        results += so_far
    return results


async def _warm_up(target: Target, plan: Plan, concurrency: int) -> None:
    output_tokens = min(plan.output_tokens, WARM_UP_OUTPUT_TOKENS)
    shape = Shape(requests=concurrency, concurrency=concurrency, output_tokens=output_tokens)
    await target.run(shape, _prompts(plan, seed=plan.seed + 500_000 + concurrency))


def _prompts(plan: Plan, seed: int) -> Prompts:
    return Prompts(plan.dataset, input_tokens=plan.input_tokens, vocab_size=plan.vocab_size, seed=seed)


def _rotated(targets: Sequence[Target], turn: int) -> list[Target]:
    shift = turn % len(targets)
    return [*targets[shift:], *targets[:shift]]


def _result(label: str, concurrency: int, runs: list[Run]) -> Result:
    summaries = [summarize(run.samples, run.duration_s) for run in runs]
    median = medians(summaries)
    return Result(label=label, concurrency=concurrency, median=median, summaries=summaries, runs=list(runs))


def _progress(label: str, concurrency: int, turn: int, turns: int, run: Run) -> str:
    summary = summarize(run.samples, run.duration_s)
    text = f"{label}, {concurrency} streams, {turn}/{turns}: {summary.output_tokens_per_s:.1f} output tokens/s"
    return f"{text}, {summary.errors} errors" if summary.errors else text
