"""`LLM`: the engine as a library."""

from pathlib import Path

import pytest

from sagellm_engine import LLM
from sagellm_schemas import ChatMessage, FinishReason, InvalidRequest, SamplingParams

GREEDY = SamplingParams(max_tokens=8, temperature=0, ignore_eos=True)


@pytest.fixture(scope="module")
def llm(tiny: Path) -> LLM:
    return LLM(str(tiny), num_blocks=80, block_size=4, max_num_seqs=4)


def test_results_come_in_the_order_of_the_prompts(llm: LLM) -> None:
    prompts = ["a", "some longer text", [98, 99], "你好", "e", "f"]
    together = llm.generate(prompts, GREEDY)
    assert [r.token_ids for r in together] == [llm.generate(p, GREEDY)[0].token_ids for p in prompts]
    assert [r.usage.prompt_tokens for r in together] == [1, 16, 2, 6, 1, 1]
    assert {r.finish_reason for r in together} == {FinishReason.LENGTH}


def test_one_prompt_can_be_text_tokens_or_messages(llm: LLM) -> None:
    [from_text] = llm.generate("ab", GREEDY)
    [from_tokens] = llm.generate([97, 98], GREEDY)
    assert from_text.token_ids == from_tokens.token_ids
    for messages in ([ChatMessage(role="user", content="hi")], [{"role": "user", "content": "hi"}]):
        with pytest.raises(InvalidRequest, match="no chat template"):
            llm.generate(messages, GREEDY)


def test_each_prompt_can_have_parameters_of_its_own(llm: LLM) -> None:
    params = [SamplingParams(max_tokens=n, temperature=0, ignore_eos=True) for n in (2, 5)]
    assert [len(r.token_ids) for r in llm.generate(["a", "b"], params)] == [2, 5]
    with pytest.raises(InvalidRequest, match="2 prompts and 1"):
        llm.generate(["a", "b"], params[:1])


def test_a_bad_prompt_starts_nothing(llm: LLM) -> None:
    with pytest.raises(InvalidRequest):
        llm.generate(["fine", ""], GREEDY)
    with pytest.raises(InvalidRequest, match="a prompt is text, token ids or chat messages"):
        llm.generate([[{"text": "no role"}]], GREEDY)  # type: ignore[list-item]
    assert not llm.engine.has_work


def test_no_prompts_give_no_answers(llm: LLM) -> None:
    assert llm.generate([], GREEDY) == []


def test_a_bar_can_be_shown(llm: LLM, capsys: pytest.CaptureFixture[str]) -> None:
    llm.generate(["a", "b"], GREEDY, progress=True)
    assert "2/2" in capsys.readouterr().out
