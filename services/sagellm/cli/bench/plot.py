"""A benchmark's picture: throughput and latencies over the number of streams, one line for each target."""

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl

from sagellm_schemas import SettingsError

from .measure import Result
from .summary import Summary

PANELS: tuple[tuple[str, Callable[[Summary], float]], ...] = (
    ("output tokens/s", lambda s: s.output_tokens_per_s),
    ("TTFT p50, ms", lambda s: s.ttft_ms.p50),
    ("TPOT p50, ms", lambda s: s.tpot_ms.p50),
)


def write_png(results: Sequence[Result], title: str, path: Path) -> None:
    """Draw the medians, with the spread of the runs as bars.

    Raises:
        SettingsError: the file cannot be written.
    """
    mpl.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import ScalarFormatter

    figure, axes = pyplot.subplots(1, len(PANELS), figsize=(4.6 * len(PANELS), 4.2), layout="constrained")
    for axis, (name, value) in zip(axes, PANELS, strict=True):
        for label in dict.fromkeys(result.label for result in results):
            mine = sorted((r for r in results if r.label == label), key=lambda r: r.concurrency)
            middle = [value(r.median) for r in mine]
            low = [m - min(map(value, r.summaries)) for m, r in zip(middle, mine, strict=True)]
            high = [max(map(value, r.summaries)) - m for m, r in zip(middle, mine, strict=True)]
            streams = [r.concurrency for r in mine]
            axis.errorbar(streams, middle, yerr=[low, high], marker="o", capsize=3, label=label)
        axis.set_title(name)
        axis.set_xlabel("concurrent streams")
        axis.set_xscale("log", base=2)
        axis.set_xticks(sorted({r.concurrency for r in results}))
        axis.xaxis.set_major_formatter(ScalarFormatter())
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.suptitle(title)
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} cannot be written: {error}") from None
    finally:
        pyplot.close(figure)
