"""The peers of `bench engine`: each gets the same model in the form it reads, and room for the whole plan."""

import contextlib
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from sagellm.settings import Settings
from sagellm_engine import Tokenizer
from sagellm_engine.loader import Checkpoint, open_checkpoint, resolve
from sagellm_schemas import InvalidRequest, ModelCard, UnsupportedParameter

from .environment import cores
from .hf_folder import write_hf_folder
from .measure import Plan
from .peer import Peer, PeerTarget, parse_peer, peer_target
from .peer_programs.protocol import Setup
from .prompts import Prompts

AUTO_DTYPE = "bfloat16"
"""What peers run weights in when `dtype` is auto."""


def parse_peers(texts: Sequence[str]) -> list[Peer]:
    """The peers of every `--compare`.

    Raises:
        InvalidRequest: one is malformed, or named twice.
    """
    peers = [parse_peer(text) for text in texts]
    if len({peer.name for peer in peers}) < len(peers):
        raise InvalidRequest("--compare names each peer once")
    return peers


@contextlib.asynccontextmanager
async def peer_targets(
    peers: Sequence[Peer], settings: Settings, plan: Plan, environment: Mapping[str, str]
) -> AsyncIterator[list[PeerTarget]]:
    """All of `peers` with the model of `settings` loaded, each a process with the variables `environment`.

    Raises:
        SageError: one is not installed, or cannot run the model.
    """
    if not peers:
        yield []
        return
    checkpoint = open_checkpoint(settings.model)
    tokenizer = _tokenizer(checkpoint)
    dtype = AUTO_DTYPE if settings.dtype == "auto" else settings.dtype
    async with contextlib.AsyncExitStack() as stack:
        form = _Forms(checkpoint, resolve(settings.model).path, dtype, stack)
        targets = []
        for peer in peers:
            setup: Setup = {
                "model": str(form.gguf() if peer.name == "llamacpp" else form.hf_folder()),
                "dtype": dtype,
                "threads": settings.threads or cores(),
                "max_streams": max(plan.concurrency),
                "max_tokens": _longest_prompt(plan, tokenizer) + plan.output_tokens,
            }
            targets.append(await stack.enter_async_context(peer_target(peer, setup, environment, tokenizer)))
        yield targets


class _Forms:
    """The model as it lies on disk, and the other form if need be, for as long as `stack` is open."""

    def __init__(self, checkpoint: Checkpoint, path: Path, dtype: str, stack: contextlib.AsyncExitStack) -> None:
        self._checkpoint = checkpoint
        self._path = path
        self._dtype = dtype
        self._stack = stack
        self._written: Path | None = None

    def gguf(self) -> Path:
        if self._path.suffix != ".gguf":
            raise UnsupportedParameter(f"llama.cpp runs GGUF files, and {self._path} is none")
        return self._path

    def hf_folder(self) -> Path:
        if self._path.is_dir():
            return self._path
        if self._written is None:
            self._written = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="sagellm-bench-")))
            write_hf_folder(self._checkpoint, self._written, self._dtype)
        return self._written


def _tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    card = ModelCard(
        name=checkpoint.name,
        max_model_len=checkpoint.config.max_position_embeddings,
        chat_template=checkpoint.chat_template,
        bos_token=checkpoint.bos_token,
        eos_token=checkpoint.eos_token,
    )
    return Tokenizer(checkpoint.tokenizer_json, card)


def _longest_prompt(plan: Plan, tokenizer: Tokenizer) -> int:
    """Tokens of the longest prompt that the plan can draw."""
    prompts = Prompts(plan.dataset, input_tokens=plan.input_tokens, vocab_size=plan.vocab_size, seed=plan.seed)
    return prompts.longest(tokenizer)
