"""Finding a policy or routing strategy by name: the built-in ones, then those of installed packages."""

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import TypeVar

from sagellm_schemas import SettingsError

T = TypeVar("T")


def find_plugin(what: str, group: str, built_in: Mapping[str, Callable[[], T]], name: str) -> Callable[[], T]:
    """The maker of the `what` called `name`; entry points of `group` may add to `built_in`, not replace.

    Raises:
        SettingsError: no such name, or the package that offers it cannot be loaded.
    """
    if name in built_in:
        return built_in[name]
    offered = {entry.name: entry for entry in entry_points(group=group)}
    if name not in offered:
        known = ", ".join(sorted({*built_in, *offered}))
        raise SettingsError(f"there is no {what} called {name!r}; choose one of {known}")
    try:
        found: Callable[[], T] = offered[name].load()
    except Exception as error:
        raise SettingsError(
            f"the {what} {name!r} of {offered[name].value} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    return found
