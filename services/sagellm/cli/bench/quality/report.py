"""The result as a table and as JSON."""

from rich.console import Console
from rich.table import Table

from sagellm.cli.bench.environment import environment

from .measure import Comparison, Scored


def show(results: list[Scored], comparison: Comparison | None, console: Console) -> None:
    """Print each model's perplexity, and how the first compares with the second, if there is one."""
    tokens = len(results[0].score.losses)
    table = Table(title=f"perplexity on {tokens} tokens", title_justify="left")
    for column in ("model", "weights", "perplexity"):
        table.add_column(column, justify="right" if column == "perplexity" else "left")
    for result in results:
        table.add_row(result.model, result.weights, f"{result.score.perplexity:.3f}")
    console.print(table)
    if comparison is not None:
        console.print(
            f"{results[0].weights} / {results[1].weights}: {comparison.perplexity_ratio:.4f} "
            f"± {comparison.standard_error:.4f}; same next token in {comparison.same_choice:.1%} of the places"
        )


def document(
    results: list[Scored], comparison: Comparison | None, *, text: str, window_tokens: int
) -> dict[str, object]:
    """Everything but the losses of single tokens, for JSON."""
    return {
        "kind": "quality",
        "environment": environment(),
        "plan": {"text": text, "window_tokens": window_tokens, "tokens": len(results[0].score.losses)},
        "results": [{"model": r.model, "weights": r.weights, "perplexity": r.score.perplexity} for r in results],
        "comparison": comparison,
    }
