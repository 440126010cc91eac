"""A simulation's picture: latencies by class, or attainment by rate."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from sagellm_schemas import SettingsError

from .goodput import Goodput
from .outcome import Outcome


def write_run_png(outcomes: Sequence[Outcome], title: str, path: Path) -> None:
    """How much of each class has TTFT, mean TPOT and wait of at most so much.

    Raises:
        SettingsError: the file cannot be written.
    """
    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(14, 4.2), layout="constrained")
    classes: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.status == "finished":
            classes[outcome.request.kind].append(outcome)
    for axis, (name, attribute) in zip(
        axes, (("TTFT, ms", "ttft_ms"), ("mean TPOT, ms", "tpot_ms"), ("wait, ms", "wait_ms")), strict=True
    ):
        for kind, found in sorted(classes.items()):
            values = np.sort([max(0.1, getattr(outcome, attribute)) for outcome in found])
            axis.plot(values, np.arange(1, len(values) + 1) / len(values), label=kind)
        axis.set(xlabel=name, xscale="log", ylim=(0, 1))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("share of the finished requests")
    axes[0].legend()
    _save(figure, title, path)


def write_goodput_png(found: Sequence[Goodput], rate_rps: float, wanted: float, title: str, path: Path) -> None:
    """Attainment at every rate that was tried, one line for each seed.

    Raises:
        SettingsError: the file cannot be written.
    """
    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(6.4, 4.4), layout="constrained")
    for search in found:
        axis.plot(
            [scale * rate_rps for scale, _ in search.tried],
            [share for _, share in search.tried],
            marker="o",
            label=f"seed {search.seed}",
        )
    axis.axhline(wanted, color="grey", linestyle="--")
    axis.set(xlabel="requests/s offered", ylabel="attainment", ylim=(0, 1.02))
    axis.grid(alpha=0.3)
    axis.legend()
    _save(figure, title, path)


def _save(figure: Any, title: str, path: Path) -> None:
    from matplotlib import pyplot

    figure.suptitle(title)
    try:
        figure.savefig(path, dpi=110)
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} cannot be written: {error}") from None
    finally:
        pyplot.close(figure)
