"""The tiny models on disk and in transformers, and engines that run them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from sagellm_engine.engine import Engine
from sagellm_engine.engine_config import EngineConfig
from sagellm_engine.execution.native import KernelsUnavailableError, load_library

from .tiny_models import LONGEST_PROMPT, TINY_MODELS, TinyModel

BLOCK = 4
"""Tokens in a KV block of the engines."""


@dataclass(frozen=True)
class SavedModel:
    """A tiny model on disk, and the same in transformers."""

    tiny: TinyModel
    folder: Path
    reference: PreTrainedModel

    @property
    def longest_prompt(self) -> int:
        """Tokens of the longest prompt to test with: it leaves room for an answer."""
        return min(LONGEST_PROMPT, (self.tiny.max_model_len or LONGEST_PROMPT + 16) - 16)

    @torch.inference_mode()
    def logits(self, token_ids: list[int]) -> torch.Tensor:
        """Scores (tokens, vocabulary) of what follows each token."""
        return self.reference(torch.tensor([token_ids])).logits[0]

    def answer(self, prompt: list[int], max_tokens: int) -> list[int]:
        """The greedy answer."""
        answered = self.reference.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            max_new_tokens=max_tokens,
            min_new_tokens=max_tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        return answered[0, len(prompt) :].tolist()


@pytest.fixture(scope="session", params=TINY_MODELS, ids=lambda tiny: tiny.name)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SavedModel:
    """Each of the tiny models."""
    folder = tmp_path_factory.mktemp(request.param.name)
    return SavedModel(request.param, folder, request.param.save(folder))


@pytest.fixture(scope="session", params=["native", "torch"])
def executor_name(request: pytest.FixtureRequest) -> str:
    """Each executor that this machine has."""
    if request.param == "native":
        try:
            load_library()
        except KernelsUnavailableError as error:
            pytest.skip(error.message)
    return request.param


def engine_of(saved: SavedModel, executor_name: str, **options: Any) -> Engine:
    """An engine on a tiny model, in float32 and with one thread."""
    defaults: dict[str, Any] = {
        "executor": executor_name,
        "dtype": "float32",
        "num_blocks": 120,
        "block_size": BLOCK,
        "max_num_seqs": 8,
        "num_threads": 1,
        "max_model_len": saved.tiny.max_model_len,
    }
    return Engine(EngineConfig(model=str(saved.folder), **(defaults | options)))
