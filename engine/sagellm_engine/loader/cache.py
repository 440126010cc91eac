"""Where fetched models are kept."""

import os
from pathlib import Path

from .aliases import ModelAlias


def cache_folder() -> Path:
    """`$SAGELLM_CACHE`, or `sagellm` below `$XDG_CACHE_HOME` or `~/.cache`. It need not exist."""
    if chosen := os.environ.get("SAGELLM_CACHE"):
        return Path(chosen).expanduser()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared) / "sagellm"
    return Path.home() / ".cache" / "sagellm"


def cached_file(alias: ModelAlias) -> Path:
    """Where the file of `alias` is, or will be."""
    return cache_folder() / "models" / alias.name / alias.file_name
