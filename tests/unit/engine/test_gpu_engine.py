"""An engine over the GPU's executor answers what one over the reference answers; here in Triton's interpreter."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="kernels need triton")

from sagellm_engine import model_runner
from sagellm_engine.engine import Engine
from sagellm_engine.engine_config import EngineConfig
from sagellm_engine.execution.gpu import GpuExecutor, GpuPacker
from sagellm_engine.execution.make import Made
from sagellm_engine.loader import Checkpoint
from sagellm_engine.models import build
from sagellm_engine.models.weights import Weights

from .conftest import prompts_of, request_of, run


@pytest.fixture(autouse=True)
def _infinities_are_no_warnings() -> Iterator[None]:
    with np.errstate(all="ignore"):
        yield


@pytest.fixture
def gpu_engine(engine_of: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Engine]:
    """Builds engines whose executor is the GPU's, on a CPU where there is no GPU."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def make(config: EngineConfig, checkpoint: Checkpoint, dtype: torch.dtype, *rest: Any) -> Made:
        packer = GpuPacker(dtype, device)
        weights = Weights(checkpoint.config, checkpoint.tensors(), packer)
        executor = GpuExecutor(
            build(checkpoint.config, weights, 160),
            packer,
            80,
            config.block_size,
            max_num_seqs=config.max_num_seqs,
            max_batched_tokens=config.max_batched_tokens,
            max_model_len=160,
        )
        return Made(executor, 80, 160, drawing=executor)

    def build_engine(**options: Any) -> Engine:
        with monkeypatch.context() as patched:
            patched.setattr(model_runner, "make_executor", make)
            return engine_of(**options)

    return build_engine


def test_answers_are_the_reference_s_whether_the_device_draws_them_or_the_host(
    engine_of: Callable[..., Engine], gpu_engine: Callable[..., Engine]
) -> None:
    first, second, third = prompts_of(9, 5, 14)
    drawn = [
        request_of(1, first, max_tokens=4),
        request_of(2, second, max_tokens=3, temperature=0.9, top_p=0.9, top_k=20, seed=3),
        request_of(3, first[:8] + third, max_tokens=3, temperature=1.2, min_p=0.02, seed=4),
    ]
    sampled = [
        request_of(4, second, max_tokens=3, logprobs=2, presence_penalty=0.5),
        request_of(5, third, max_tokens=3),
    ]
    reference, engine = engine_of(executor="torch"), gpu_engine()
    for requests in (drawn, sampled):
        expected, actual = run(reference, requests), run(engine, requests)
        for request in requests:
            assert actual[request.id].token_ids == expected[request.id].token_ids


def test_guessed_tokens_change_no_answer_on_the_device(gpu_engine: Callable[..., Engine]) -> None:
    prompt = prompts_of(6)[0] * 2
    requests = [
        request_of(1, prompt, max_tokens=5),
        request_of(2, prompt[3:], max_tokens=4, temperature=0.8, seed=9),
    ]
    plain = run(gpu_engine(), requests)
    guessing = run(gpu_engine(speculation="ngram"), requests)
    assert {i: a.token_ids for i, a in guessing.items()} == {i: a.token_ids for i, a in plain.items()}
