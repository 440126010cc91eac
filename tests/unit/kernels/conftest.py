"""Kernels run on a GPU where there is one, else on the CPU in Triton's interpreter (see `tests/conftest.py`)."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def _infinities_are_no_warnings() -> Iterator[None]:
    """The interpreter computes with NumPy, which warns of what a GPU does silently, such as exp(100)."""
    with np.errstate(all="ignore"):
        yield


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
