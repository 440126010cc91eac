"""Greedy tokens of the engine against transformers, both in float32.

    python ops/bench/greedy_parity.py --model DIR_OR_GGUF [--json out.json]

The prompts are 40 first turns of MT-bench, rendered with the model's chat template. transformers answers them one
by one; the engine answers all in one batch, in several ways. Every answer must be the same token for token.
Exit status 1 if one is not.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM

from sagellm_engine import LLM, GenerateRequest
from sagellm_engine.loader import open_checkpoint
from sagellm_engine.tokenizer import Tokenizer
from sagellm_schemas import ChatMessage, ModelCard, SamplingParams

PROMPTS = Path(__file__).parents[2] / "tests/data/mt_bench_first_turns.jsonl"

WAYS: dict[str, dict[str, Any]] = {
    "one batch": {"enable_prefix_caching": False, "max_batched_tokens": 8192},
    "chunks of 32, prefix caching": {"max_chunk_tokens": 32},
    "chunks of 32, prefix caching, again (all hits)": {"max_chunk_tokens": 32, "passes": 2},
    "few blocks (preemption)": {"num_blocks": 160, "max_model_len": 1024},
    "resumed after 20 tokens": {"resume": 20},
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder with safetensors, or GGUF file")
    parser.add_argument("--tokens", type=int, default=64, help="length of each answer")
    parser.add_argument("--prompts", type=int, default=40, help="how many of the prompts")
    parser.add_argument("--attention", default="sdpa", choices=["sdpa", "eager"], help="that of transformers")
    parser.add_argument(
        "--reference", type=Path, help="keep the answers of transformers in this file, and reuse them"
    )
    parser.add_argument("--json", type=Path, help="write the results here")
    arguments = parser.parse_args()
    prompts = load_prompts(arguments.model)[: arguments.prompts]
    if arguments.reference and arguments.reference.exists():
        expected, gaps = json.loads(arguments.reference.read_text())
    else:
        expected, gaps = reference(arguments.model, prompts, arguments.tokens, arguments.attention)
        if arguments.reference:
            arguments.reference.write_text(json.dumps([expected, gaps]))
    results: dict[str, Any] = {"ways": {}}
    table = Table("way", "identical", "tokens/s", "preemptions", "cached tokens", "differences")
    for name, options in WAYS.items():
        print(f"{name} …", flush=True)
        result = run_engine(arguments.model, prompts, arguments.tokens, expected, options)
        differences = [
            {
                "prompt": i,
                "position": at,
                "ours": got[at : at + 1],
                "theirs": want[at : at + 1],
                "gap": gaps[i][at],
            }
            for i, (got, want) in enumerate(zip(result.pop("answers"), expected, strict=True))
            if (at := first_difference(got, want)) is not None
        ]
        result |= {"identical": len(prompts) - len(differences), "of": len(prompts), "differences": differences}
        results["ways"][name] = result
        table.add_row(
            name,
            f"{result['identical']} of {result['of']}",
            f"{result['tokens_per_s']:.0f}",
            str(result["preemptions"]),
            str(result["cached_tokens"]),
            "; ".join(f"#{d['prompt']}@{d['position']} gap {d['gap']:.1e}" for d in differences) or "none",
        )
    results["smallest_gap"] = min(min(g) for g in gaps)
    Console().print(table)
    print(f"smallest gap between the best two logits of transformers: {results['smallest_gap']:.2e}")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2))
    return 0 if all(way["identical"] == way["of"] for way in results["ways"].values()) else 1


def load_prompts(model: str) -> list[list[int]]:
    """The prompts as token ids, through the model's chat template."""
    checkpoint = open_checkpoint(model)
    card = ModelCard(
        name=checkpoint.name,
        max_model_len=1,
        chat_template=checkpoint.chat_template,
        bos_token=checkpoint.bos_token,
        eos_token=checkpoint.eos_token,
    )
    tokenizer = Tokenizer(checkpoint.tokenizer_json, card)
    rows = [json.loads(line) for line in PROMPTS.read_text().splitlines()]
    texts = [tokenizer.render([ChatMessage(role="user", content=row["prompt"])]) for row in rows]
    return [tokenizer.encode(text, add_special_tokens=False) for text in texts]


@torch.inference_mode()
def reference(model: str, prompts: list[list[int]], tokens: int, attention: str) -> tuple[Any, Any]:
    """Greedy answers of transformers, and at each position by how much the best logit beat the second."""
    path = Path(model)
    source = {"gguf_file": path.name} if path.suffix == ".gguf" else {}
    folder = path.parent if source else path
    theirs = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation=attention, **source
    ).eval()
    eos = set(open_checkpoint(model).eos_token_ids)
    answers, gaps = [], []
    for number, prompt in enumerate(prompts):
        print(f"\rtransformers {number + 1} of {len(prompts)}", end="\n" * (prompt is prompts[-1]), flush=True)
        cache, step, answer, gap = None, torch.tensor([prompt]), [], []
        while len(answer) < tokens and not (answer and answer[-1] in eos):
            out = theirs(step, past_key_values=cache, use_cache=True, logits_to_keep=1)
            best = out.logits[0, -1].topk(2)
            answer.append(int(best.indices[0]))
            gap.append(float(best.values[0] - best.values[1]))
            cache, step = out.past_key_values, torch.tensor([[answer[-1]]])
        answers.append(answer)
        gaps.append(gap)
    return answers, gaps


def run_engine(
    model: str, prompts: list[list[int]], tokens: int, expected: list[list[int]], options: dict[str, Any]
) -> dict[str, Any]:
    """Greedy answers of the engine."""
    options = dict(options)
    passes, resume = options.pop("passes", 1), options.pop("resume", 0)
    engine = LLM(model, dtype="float32", **options).engine
    sampling = SamplingParams(max_tokens=tokens, temperature=0)
    started = time.perf_counter()
    for number in range(passes):
        answers = {f"{number}-{i}": want[:resume] for i, want in enumerate(expected)}
        for (request_id, held), prompt in zip(answers.items(), prompts, strict=True):
            engine.add_request(
                GenerateRequest(id=request_id, sampling=sampling, prompt_token_ids=prompt, resume_token_ids=held)
            )
        while engine.has_work:
            for output in engine.step():
                if output.error is not None:
                    raise output.error
                answers[output.id] = answers[output.id] + output.token_ids
    stats = engine.stats()
    return {
        "answers": list(answers.values()),
        "tokens_per_s": stats.output_tokens_total / (time.perf_counter() - started),
        "preemptions": stats.preemptions_total,
        "cached_tokens": stats.cached_tokens_total,
    }


def first_difference(got: list[int], want: list[int]) -> int | None:
    """Index of the first token that differs; None if the answers are equal."""
    if got == want:
        return None
    return next(
        (i for i, (a, b) in enumerate(zip(got, want, strict=False)) if a != b), min(len(got), len(want)) - 1
    )


if __name__ == "__main__":
    sys.exit(main())
