"""What a calibration found: the cost model, and how well it says again what was measured."""

from pathlib import Path
from statistics import median

import msgspec
from rich.console import Console
from rich.table import Table

from sagellm.cli.bench.environment import environment
from sagellm.simulator.cost import CostModel
from sagellm_schemas import SettingsError

from .fit import Fitted
from .probes import Measurement, Probe
from .rig import Facts


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """A cost model and the measurements behind it. `warning` says what may have disturbed them."""

    facts: Facts
    cost_model: CostModel
    measurements: list[Measurement]
    fitted: list[Fitted]
    warning: str = ""

    def with_warning(self, warning: str) -> "Calibration":
        """The same with a warning."""
        return msgspec.structs.replace(self, warning=warning)

    @property
    def median_error(self) -> float:
        """Of the fit, as a share of what was measured."""
        return median(abs(one.error) for one in self.fitted)

    def document(self) -> str:
        """Everything as one JSON object."""
        whole = {
            "instance": self.facts,
            "cost_model": self.cost_model,
            "median_error": round(self.median_error, 4),
            "max_error": max(abs(one.error) for one in self.fitted),
            "fitted": self.fitted,
            "measurements": self.measurements,
            "warning": self.warning,
            "environment": environment(),
        }
        return msgspec.json.format(msgspec.json.encode(whole), indent=1).decode()


def origin_of(facts: Facts, repeat: int) -> str:
    """Where the numbers of a cost model are from."""
    found = environment()
    return (
        f"sagellm bench calibrate on {facts.model}, engine {facts.engine}, {found['cpu']}, {found['time']}; "
        f"medians of {repeat} runs. dense_ms includes the LM head; KV and attention are rates fitted to "
        "times, not the hardware's."
    )


def write(calibration: Calibration, path: Path) -> None:
    """Write the cost model's file.

    Raises:
        SettingsError: it cannot be written.
    """
    try:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(calibration.cost_model), indent=1) + b"\n")
    except OSError as error:
        raise SettingsError(f"{path} cannot be written: {error.strerror}") from None


def show(calibration: Calibration, console: Console, out: Path | None) -> None:
    """Print fit against measurement."""
    facts = calibration.facts
    table = Table(title=f"{facts.name}: {facts.model}, engine {facts.engine}", title_justify="left")
    for column in ("what", "measured ms", "fitted ms", "error"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for one in calibration.fitted:
        table.add_row(_name(one.probe), f"{one.measured_ms:.3f}", f"{one.fitted_ms:.3f}", f"{one.error:+.1%}")
    console.print(table)
    where = f"; written to {out}" if out is not None else "; --out FILE writes it for --cost-model"
    console.print(f"median error {calibration.median_error:.1%}{where}", markup=False, highlight=False)
    if calibration.warning:
        console.print(calibration.warning, markup=False, highlight=False)


def _name(probe: Probe) -> str:
    if not probe.batch:
        return f"prompt of {probe.tokens} tokens"
    return f"step of {probe.batch} decode{'s' * (probe.batch > 1)} after {probe.tokens} tokens"
