"""The plan of a benchmark, carried out on targets that take no time."""

from sagellm.cli.bench.load import Run
from sagellm.cli.bench.measure import Plan, Result, measure
from sagellm.cli.bench.prompts import Prompts
from sagellm.cli.bench.sample import Sample
from sagellm.cli.bench.targets import Shape

PLAN = Plan(
    concurrency=[1, 4], input_tokens=6, output_tokens=3, repeat=3, dataset="random", vocab_size=1000, seed=5
)


class Instant:
    """Answers at once, and writes down in a common log who was asked, and what."""

    def __init__(self, label: str, log: list[tuple[str, list[list[int]]]]) -> None:
        self.label = label
        self._log = log

    async def run(self, shape: Shape, prompts: Prompts) -> Run:
        self._log.append((self.label, [prompts.token_ids() for _ in range(shape.requests)]))
        samples = [Sample(ttft_ms=1.0, output_tokens=shape.output_tokens) for _ in range(shape.requests)]
        return Run(duration_s=1.0, samples=samples)

    def describe(self) -> dict[str, object]:
        return {"label": self.label}


async def test_every_target_gets_the_same_prompts_and_no_prompt_comes_twice() -> None:
    log: list[tuple[str, list[list[int]]]] = []
    await measure([Instant("a", log), Instant("b", log)], PLAN, lambda _: None)
    asked = {label: [tuple(prompt) for name, run in log if name == label for prompt in run] for label in "ab"}
    assert sorted(asked["a"]) == sorted(asked["b"])
    assert len(set(asked["a"])) == len(asked["a"])
    assert [label for label, _ in log[:8]] == ["a", "b", "a", "b", "b", "a", "a", "b"]  # two that warm up first


async def test_what_there_is_so_far_is_handed_over_after_every_turn() -> None:
    kept: list[list[Result]] = []
    results = await measure([Instant("a", []), Instant("b", [])], PLAN, lambda _: None, kept.append)
    assert [[(r.label, r.concurrency, len(r.runs)) for r in found] for found in kept] == [
        [("a", 1, 1), ("b", 1, 1)],
        [("a", 1, 2), ("b", 1, 2)],
        [("a", 1, 3), ("b", 1, 3)],
        [("a", 1, 3), ("b", 1, 3), ("a", 4, 1), ("b", 4, 1)],
        [("a", 1, 3), ("b", 1, 3), ("a", 4, 2), ("b", 4, 2)],
        [("a", 1, 3), ("b", 1, 3), ("a", 4, 3), ("b", 4, 3)],
    ]
    assert kept[-1] == results
    assert results[0].without_samples().median == results[0].median
