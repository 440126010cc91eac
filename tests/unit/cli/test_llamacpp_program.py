"""What llama.cpp is given: every token once, at its place, sequences in ascending order."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from sagellm.cli.bench.peer_programs import llamacpp
from sagellm.cli.bench.peer_programs.protocol import CannotCompareError, Setup

SETUP: Setup = {"model": "/m.gguf", "dtype": "bfloat16", "threads": 2, "max_streams": 3, "max_tokens": 300}


class FakeApi:
    """llama_cpp with sequences that remember their tokens; the token after n tokens is 1000 + n."""

    __version__ = "1"

    def __init__(self) -> None:
        self.batches: list[list[tuple[int, int, int]]] = []
        """Of each decoded batch: sequence, position, token."""
        self.cache: dict[int, list[int]] = {}
        self.params = SimpleNamespace()
        self._rows: dict[int, int] = {}

    def __getattr__(self, name: str) -> Any:
        return lambda *_: 1

    def llama_context_default_params(self) -> SimpleNamespace:
        return self.params

    def llama_print_system_info(self) -> bytes:
        return b"AVX512 = 1"

    def llama_batch_init(self, tokens: int, _embeddings: int, _sequences: int) -> SimpleNamespace:
        fields = {name: [0] * tokens for name in ("token", "pos", "n_seq_id", "logits")}
        return SimpleNamespace(n_tokens=0, seq_id=[[0] for _ in range(tokens)], **fields)

    def llama_decode(self, _context: object, batch: SimpleNamespace) -> int:
        rows = range(batch.n_tokens)
        self.batches.append([(batch.seq_id[row][0], batch.pos[row], batch.token[row]) for row in rows])
        self._rows = {}
        for row, (sequence, position, token) in enumerate(self.batches[-1]):
            held = self.cache.setdefault(sequence, [])
            assert position == len(held)
            held.append(token)
            if batch.logits[row]:
                self._rows[row] = len(held)
        return 0

    def llama_sampler_sample(self, _sampler: object, _context: object, row: int) -> int:
        return 1000 + self._rows[row]

    def llama_memory_seq_rm(self, _memory: object, sequence: int, _from: int, _to: int) -> None:
        del self.cache[sequence]


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> FakeApi:
    fake = FakeApi()
    monkeypatch.setitem(sys.modules, "llama_cpp", fake)  # type: ignore[arg-type]
    return fake


def test_prompts_and_answers_reach_their_sequences_in_order(api: FakeApi) -> None:
    peer = llamacpp.start(SETUP)
    prompts = [[5] * 3, [6] * 2, [7] * 4, [8] * 3]
    timings = peer.run({"prompts": prompts, "concurrency": 3, "output_tokens": 3})
    assert [timing["output_tokens"] for timing in timings] == [3] * 4
    assert [sequence for sequence, _, _ in api.batches[0]] == [0, 0, 0, 1, 1, 2, 2, 2, 2]
    assert api.batches[1] == [(0, 3, 1003), (1, 2, 1002), (2, 4, 1004)]
    assert api.batches[3] == [(0, 0, 8), (0, 1, 8), (0, 2, 8)]  # into the sequence of one that has ended
    assert api.cache == {}


def test_a_batch_holds_the_tokens_of_those_that_answer_and_what_fits_of_the_prompts(
    api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llamacpp, "BATCH_TOKENS", 4)
    peer = llamacpp.start(SETUP)
    peer.run({"prompts": [[5] * 2, [6] * 7], "concurrency": 2, "output_tokens": 4})
    assert [[sequence for sequence, _, _ in batch] for batch in api.batches[:3]] == [
        [0, 0, 1, 1],
        [0, 1, 1, 1],
        [0, 1, 1],
    ]


def test_each_sequence_has_room_for_its_tokens_rounded_up(api: FakeApi) -> None:
    llamacpp.start(SETUP)
    assert (api.params.n_ctx, api.params.n_seq_max) == (3 * 512, 3)
    assert (api.params.n_threads, api.params.n_threads_batch) == (2, 2)


def test_a_file_that_llama_cpp_cannot_load_is_one_sentence(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "llama_model_load_from_file", lambda *_: None, raising=False)
    with pytest.raises(CannotCompareError, match=r"llama\.cpp cannot load /m\.gguf"):
        llamacpp.start(SETUP)
