"""Settings of a command that joins a pipeline which runs already, where `sagellm up` may have started it."""

import contextlib
from typing import Any

from sagellm.settings import Settings

JOIN_FILE = "nats.env"
"""In the state folder while `sagellm up` runs: the variables with which another process joins its pipeline."""
HEAD = "SAGELLM_"


def joined_settings(**overrides: Any) -> Settings:
    """Settings from flags and variables; if they name no NATS server, that of `sagellm up` on this machine.

    Raises:
        SettingsError: a value is missing, unknown or out of range; the message names the variable.
    """
    settings = Settings.load(**overrides)
    if "nats_url" in settings.model_fields_set:
        return settings
    found: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in (settings.state_dir / JOIN_FILE).read_text().splitlines():
            name, equals, value = line.partition("=")
            if equals and name.startswith(HEAD):
                found[name.removeprefix(HEAD).lower()] = value
    return Settings.load(**(found | {name: value for name, value in overrides.items() if value is not None}))
