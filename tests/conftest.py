"""What tests of every kind share."""

import os
from pathlib import Path

import pytest
import torch

from sagellm_engine.loader import pull

if not torch.cuda.is_available():
    # Triton reads it when it is first imported, by whichever test comes first: its kernels then run on the CPU.
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """A real model of 98 MB, SmolLM2-135M-Instruct, from the cache that people's own runs use too."""
    return pull("smollm2-135m-instruct")
