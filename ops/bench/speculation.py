"""What speculative decoding brings: the same answers with it and without, in turn, on one machine.

    python ops/bench/speculation.py --json docs/benchmarks/speculation.json

Two engines of the same model are in memory. Each prompt is answered by one and by the other, so that both have
the same luck with the machine; the first turn warms up. Some prompts ask for text that repeats the prompt, some
for free text. Every pair of answers must be the same token for token: exit status 1 if one is not. Reported are
the medians of the output tokens/s after the first token, and how they compare.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from sagellm.cli.bench.environment import environment
from sagellm_engine import LLM, GenerateRequest
from sagellm_schemas import ChatMessage, SamplingParams

CODE = """\
def read_settings(path):
    settings = {}
    with open(path) as file:
        for line in file:
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            name, _, value = line.partition("=")
            settings[name.strip()] = value.strip()
    return settings


def write_settings(path, settings):
    with open(path, "w") as file:
        for name, value in sorted(settings.items()):
            file.write(f"{name} = {value}\\n")


def merge_settings(first, second):
    merged = dict(first)
    for name, value in second.items():
        merged[name] = value
    return merged
"""

TEXT = (
    "The bridge was opened in 1894 and is 244 metres long. Its two towers are 65 metres high. Around 40,000 "
    "people cross it each day. The roadway is 61 metres long between the towers. The city pays for repairs every "
    "20 years. The last repair took 18 months and cost 5 million pounds."
)

EDITS = {
    "a variable": "Rename `settings` to `options` in this code and print all of it:",
    "a function": "Rename the function `read_settings` to `load_settings` and print the whole code again:",
    "a comment": "Print this code again, with a comment at its beginning that says what it does:",
}

QUOTES = {
    "quotes": "Summarize the text. Quote every sentence with a number, word for word.",
    "summary with quotes": "Summarize the text and quote every sentence that names a number, word for word.",
}

PROMPTS = {
    **{f"edit code: {name}": f"{task}\n```python\n{CODE}```" for name, task in EDITS.items()},
    **{name: f"{task}\n\n{TEXT}" for name, task in QUOTES.items()},
    "free text: story": "Write a short story about a lighthouse keeper who finds a strange machine on the beach.",
    "free text: explain": "Explain to a curious adult why the sky is blue and sunsets are red.",
}


def main() -> int:
    """Measure, print, save."""
    arguments = _arguments()
    options: dict[str, Any] = {"num_threads": arguments.threads, "enable_prefix_caching": False}
    drafting = {"speculation": arguments.speculation, "draft_model": arguments.draft_model}
    engines = {
        "off": LLM(arguments.model, **options),
        "on": LLM(arguments.model, num_draft_tokens=arguments.draft_tokens, **drafting, **options),
    }
    turns = [(turn, name) for turn in range(arguments.repeat + 1) for name in PROMPTS]
    runs: list[dict[str, Any]] = []
    for turn, name in track(turns, description="answers", transient=True):
        for setting in ("off", "on") if turn % 2 else ("on", "off"):
            found = answer(engines[setting], name, arguments)
            runs.append({"prompt": name, "speculation": setting, "warm_up": turn == 0, **found})
    report = {"environment": environment(), "arguments": vars(arguments) | {"json": None}}
    report |= {"summary": {name: summary(name, runs) for name in PROMPTS}}
    report["runs"] = [{key: value for key, value in run.items() if key != "token_ids"} for run in runs]
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    show(report)
    return 0 if all(found["same_tokens"] for found in report["summary"].values()) else 1


def answer(llm: LLM, name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Answer one prompt, on as many streams as are asked for, each with its own seed."""
    engine = llm.engine
    text = engine.tokenizer.render([ChatMessage(role="user", content=PROMPTS[name])])
    prompt = engine.tokenizer.encode(text, add_special_tokens=False)
    token_ids: dict[str, list[int]] = {}
    for stream in range(arguments.streams):
        sampling = SamplingParams(max_tokens=arguments.tokens, temperature=arguments.temperature, seed=stream)
        request = GenerateRequest(id=str(stream), prompt_token_ids=prompt, sampling=sampling)
        engine.add_request(request)
        token_ids[request.id] = []
    before = engine.stats()
    started = time.perf_counter()
    first_s = 0.0
    while engine.has_work:
        for output in engine.step():
            token_ids[output.id] += output.token_ids
        if not first_s and all(token_ids.values()):
            first_s = time.perf_counter() - started
            begun = sum(map(len, token_ids.values()))
    ended_s = time.perf_counter() - started
    after = engine.stats()
    drafted, accepted = (
        getattr(after.speculation, f"{kind}_tokens_total", 0)
        - getattr(before.speculation, f"{kind}_tokens_total", 0)
        for kind in ("drafted", "accepted")
    )
    return {
        "first_token_ms": round(first_s * 1e3, 2),
        "tokens_per_s": round((sum(map(len, token_ids.values())) - begun) / (ended_s - first_s), 2),
        "steps": after.steps_total - before.steps_total,
        "drafted_tokens": drafted,
        "accepted_tokens": accepted,
        "token_ids": list(token_ids.values()),
    }


def summary(name: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians of one prompt's runs, and the ratio of tokens/s in each turn, of which the median counts."""
    of_prompt = [run for run in runs if run["prompt"] == name]
    rates = {
        setting: [r["tokens_per_s"] for r in of_prompt if r["speculation"] == setting and not r["warm_up"]]
        for setting in ("off", "on")
    }
    drafted = sum(run["drafted_tokens"] for run in of_prompt)
    return {
        "tokens_per_s": {setting: statistics.median(values) for setting, values in rates.items()},
        "ratio": round(statistics.median(on / off for on, off in zip(rates["on"], rates["off"], strict=True)), 3),
        "acceptance_rate": round(sum(r["accepted_tokens"] for r in of_prompt) / drafted, 3) if drafted else None,
        "same_tokens": all(run["token_ids"] == of_prompt[0]["token_ids"] for run in of_prompt),
    }


def show(report: dict[str, Any]) -> None:
    """The summary as a table."""
    table = Table("prompt", "tokens/s without", "with", "ratio", "right", "same tokens")
    for name, found in report["summary"].items():
        rates, right = found["tokens_per_s"], found["acceptance_rate"]
        table.add_row(
            name,
            f"{rates['off']:.1f}",
            f"{rates['on']:.1f}",
            f"{found['ratio']:.2f}",
            "-" if right is None else f"{right:.0%}",
            "yes" if found["same_tokens"] else "NO",
        )
    Console().print(table)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--speculation", default="ngram", choices=["ngram", "draft"])
    parser.add_argument("--draft-model", help="for --speculation draft")
    parser.add_argument("--draft-tokens", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=224, help="length of an answer at most")
    parser.add_argument("--streams", type=int, default=1, help="answers at once")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--threads", type=int, help="CPU threads; all cores if not given")
    parser.add_argument("--repeat", type=int, default=5, help="turns that count")
    parser.add_argument("--json", type=Path, help="write the results here")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
