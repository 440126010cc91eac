"""A request with an adapter is answered as by a model that has it merged into its weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from transformers import LlamaForCausalLM

from sagellm_engine.contract import GenerateRequest
from sagellm_engine.engine import Engine
from sagellm_engine.execution import Span
from sagellm_engine.llm import LLM
from sagellm_schemas import InvalidRequest, SamplingParams, SettingsError
from sagellm_schemas.prefix import block_hashes, root_of

from .adapters import ATTENTION, MLP, greedy, merged, write_adapter
from .conftest import prompts_of, request_of, run

Build = Callable[..., Engine]
Answers = dict[str | None, list[list[int]]]
LENGTHS = (3, 17, 40, 71)


@pytest.fixture(scope="module")
def folders(reference: LlamaForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Adapters of different shapes."""
    root = tmp_path_factory.mktemp("adapters")
    made = {
        "all": write_adapter(root / "all", reference, seed=1),
        "attention": write_adapter(root / "attention", reference, ATTENTION, 2, r=16, use_rslora=True),
        "mlp": write_adapter(root / "mlp", reference, MLP, 3, rank_pattern={"up_proj": 2}),
        "values": write_adapter(root / "values", reference, ("v_proj",), 4, alpha_pattern={"v_proj": 40}),
    }
    return {name: str(folder) for name, folder in made.items()}


@pytest.fixture(scope="module")
def expected(reference: LlamaForCausalLM, folders: dict[str, str]) -> Answers:
    """Greedy answers of the merged models, and of the plain one, in transformers."""
    models = {None: reference} | {name: merged(reference, Path(folder)) for name, folder in folders.items()}
    return {name: [greedy(model, prompt) for prompt in prompts_of(*LENGTHS)] for name, model in models.items()}


@pytest.fixture(params=["torch", "native"])
def adapted(request: pytest.FixtureRequest, engine_of: Build, folders: dict[str, str]) -> Build:
    """Builds an engine with the adapters, on each executor."""

    def build(**options: Any) -> Engine:
        return engine_of(adapters=folders, executor=request.param, **options)

    return build


def asked(number: int, adapter: str | None, prompt: list[int], **params: Any) -> GenerateRequest:
    return msgspec.structs.replace(request_of(number, prompt, **params), adapter=adapter)


def test_each_adapter_changes_the_greedy_answers(expected: Answers) -> None:
    assert len({tuple(map(tuple, answers)) for answers in expected.values()}) == len(expected)


@pytest.mark.parametrize(
    "options",
    [{}, {"max_chunk_tokens": 7}, {"enable_prefix_caching": False}, {"num_blocks": 40, "max_num_seqs": 12}],
    ids=["whole", "chunked", "uncached", "few blocks"],
)
def test_several_adapters_and_none_answer_together_as_the_merged_models_do(
    adapted: Build, expected: Answers, options: dict[str, Any]
) -> None:
    engine = adapted(**options)
    requests, wanted = [], {}
    for name, answers in expected.items():
        for prompt, answer in zip(prompts_of(*LENGTHS), answers, strict=True):
            request = asked(len(requests), name, prompt)
            requests.append(request)
            wanted[request.id] = answer
    answered = run(engine, requests)
    assert {request_id: answer.token_ids for request_id, answer in answered.items()} == wanted
    if options.get("num_blocks") == 40:
        assert engine.stats().preemptions_total > 0


def test_an_answer_goes_on_elsewhere_with_its_adapter(adapted: Build, expected: Answers) -> None:
    prompt, answer = prompts_of(*LENGTHS)[1], expected["all"][1]
    request = msgspec.structs.replace(request_of(0, prompt, resume=answer[:10]), adapter="all")
    assert run(adapted(), [request])["0"].token_ids == answer


def test_equal_prompts_share_nothing_between_adapters(adapted: Build, expected: Answers) -> None:
    engine = adapted()
    prompt = prompts_of(*LENGTHS)[3]
    for number, name in enumerate((None, "all", "mlp", None, "all")):
        answer = run(engine, [asked(number, name, prompt)])[str(number)]
        assert answer.token_ids == expected[name][3]
        assert answer.last.usage is not None
        assert answer.last.usage.cached_tokens == (0 if number < 3 else 68)


def test_the_prefix_cache_tells_of_blocks_by_the_names_that_routing_gives_them(adapted: Build) -> None:
    engine = adapted()
    prompt = prompts_of(16)[0]
    run(engine, [asked(0, "all", prompt, max_tokens=1)])
    assert set(engine.blocks.take_changes()) == set(block_hashes(prompt, 4, root_of("all")))


def test_rows_without_an_adapter_are_computed_as_if_there_were_none(adapted: Build) -> None:
    engine = adapted()
    token_ids = prompts_of(24)[0]

    def scores(*adapters: int | None) -> torch.Tensor:
        spans = [Span(row * 8, 8, 0, [2 * row, 2 * row + 1], adapter) for row, adapter in enumerate(adapters)]
        positions = list(range(8)) * 3
        with torch.inference_mode():
            return engine.runner.executor.forward(token_ids, positions, spans, [7, 15, 23]).logits.clone()

    plain, mixed = scores(None, None, None), scores(None, 0, None)
    assert torch.equal(plain[[0, 2]], mixed[[0, 2]])
    assert not torch.allclose(plain[1], mixed[1])


def test_scores_are_those_of_the_merged_model(
    reference: LlamaForCausalLM, adapted: Build, folders: dict[str, str]
) -> None:
    engine = adapted()
    token_ids = prompts_of(20)[0]
    for index, folder in enumerate(folders.values()):
        with torch.inference_mode():
            expected = merged(reference, Path(folder))(torch.tensor([token_ids])).logits[0]
            spans = [Span(0, 20, 0, [0, 1, 2, 3, 4], index)]
            found = engine.runner.executor.forward(token_ids, list(range(20)), spans, list(range(20))).logits
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("options", [{"dtype": "bfloat16"}, {"quantization": "int8"}], ids=["bfloat16", "int8"])
def test_with_rounded_weights_scores_are_near_those_of_the_merged_model(
    reference: LlamaForCausalLM, adapted: Build, folders: dict[str, str], options: dict[str, Any]
) -> None:
    engine = adapted(**options)
    token_ids = prompts_of(20)[0]

    def scores(adapter: int | None) -> torch.Tensor:
        spans = [Span(0, 20, 0, [0, 1, 2, 3, 4], adapter)]
        return engine.runner.executor.forward(token_ids, list(range(20)), spans, list(range(20))).logits.clone()

    with torch.inference_mode():
        for index, folder in enumerate(folders.values()):
            expected = merged(reference, Path(folder))(torch.tensor([token_ids])).logits[0]
            off, off_without = ((scores(choice) - expected).square().mean().sqrt() for choice in (index, None))
            assert off < 0.05 * expected.std()
            assert off < 0.2 * off_without


def test_an_unknown_adapter_is_refused_with_the_names_there_are(engine_of: Build, folders: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest, match="no adapter 'poet'; there are: all, attention, mlp, values"):
        engine_of(adapters=folders).add_request(asked(0, "poet", [1, 2]))
    with pytest.raises(InvalidRequest, match="there are: none"):
        engine_of().add_request(asked(0, "poet", [1, 2]))


def test_an_adapter_without_a_folder_is_a_setting_that_is_wrong(engine_of: Build) -> None:
    with pytest.raises(SettingsError, match="an adapter needs a name and a folder"):
        engine_of(adapters={"poet": ""})


def test_the_library_answers_with_an_adapter(tiny: Path, folders: dict[str, str], expected: Answers) -> None:
    llm = LLM(str(tiny), num_blocks=80, block_size=4, adapters=folders)
    params = SamplingParams(max_tokens=24, temperature=0.0, ignore_eos=True)
    [plain] = llm.generate(prompts_of(*LENGTHS)[0], params)
    [adapted] = llm.generate(prompts_of(*LENGTHS)[0], params, adapter="mlp")
    assert (plain.token_ids, adapted.token_ids) == (expected[None][0], expected["mlp"][0])
