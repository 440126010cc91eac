"""What `sagellm up` writes: the children's lines, each behind its child's coloured name."""

import sys

from rich.console import Console
from rich.text import Text

COLOURS = ("cyan", "green", "magenta", "yellow", "blue", "bright_cyan", "bright_green", "bright_magenta")
OURSELVES = "sagellm"


class Output:
    """Lines of several processes on one screen (stderr: stdout is for answers)."""

    def __init__(self, names: list[str], *, quiet: bool = False) -> None:
        """`quiet` keeps the children's lines off the screen; what `say` is told is shown all the same."""
        self._console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
        self._colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
        self._width = max(len(name) for name in [*names, OURSELVES])
        self._quiet = quiet

    def line(self, name: str, text: str) -> None:
        """One line that the child `name` wrote."""
        if not self._quiet:
            self._console.print(Text(f"{name:<{self._width}} │ ", self._colours.get(name, "dim")) + text)

    def say(self, text: str) -> None:
        """One line of our own."""
        self._console.print(Text(f"{OURSELVES:<{self._width}} │ ", "bold") + text)
