"""The prompts of a benchmark."""

from pathlib import Path

import msgspec
import pytest

from sagellm.cli.bench.prompts import LOWEST_TOKEN_ID, Prompts, RequestWriter
from sagellm_schemas import InvalidRequest, SettingsError


def prompts(dataset: str = "random", seed: int = 1) -> Prompts:
    return Prompts(dataset, input_tokens=5, vocab_size=1000, seed=seed)


def test_the_same_seed_gives_the_same_prompts_and_another_seed_others() -> None:
    first, again, other = prompts(), prompts(), prompts(seed=2)
    made = [first.token_ids() for _ in range(3)]
    assert made == [again.token_ids() for _ in range(3)]
    assert made != [other.token_ids() for _ in range(3)]
    assert all(LOWEST_TOKEN_ID <= token < 1000 for ids in made for token in ids)


def test_random_prompts_go_to_completions_and_questions_to_chat(tmp_path: Path) -> None:
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"turns": ["Why?", "Really?"]}\n{"prompt": "Why?"}\n')

    random = RequestWriter("m", prompts(), output_tokens=9)
    chat = RequestWriter("m", prompts(str(questions)), output_tokens=9)

    assert (random.path, chat.path) == ("/v1/completions", "/v1/chat/completions")
    assert len(msgspec.json.decode(random.body())["prompt"]) == 5
    body = msgspec.json.decode(chat.body())
    assert body["messages"] == [{"role": "user", "content": "Why?"}]
    assert (body["max_tokens"], body["temperature"], body["ignore_eos"]) == (9, 0, True)


@pytest.mark.parametrize("content", [None, "", "no json", '{"turns": []}'])
def test_a_dataset_that_cannot_be_used_is_named(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SettingsError, match=str(path)):
        prompts(str(path))


def test_a_vocabulary_without_ordinary_tokens_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="--vocab-size"):
        Prompts("random", input_tokens=5, vocab_size=LOWEST_TOKEN_ID, seed=1)
