"""Logging of a service: one line a record, to standard error."""

import logging
import sys


def configure(level: str, service: str) -> None:
    """Log at `level` and above, naming the `service`; libraries speak from WARNING on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        logging.Formatter(f"%(asctime)s.%(msecs)03d %(levelname)-7s {service} %(message)s", "%H:%M:%S")
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for ours in ("sagellm", "sagellm_engine", "sagellm_schemas"):
        logging.getLogger(ours).setLevel(level.upper())
