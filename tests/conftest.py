"""What tests of every kind share."""

from pathlib import Path

import pytest

from sagellm_engine.loader import pull


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """A real model of 98 MB, SmolLM2-135M-Instruct, from the cache that people's own runs use too."""
    return pull("smollm2-135m-instruct")
