"""The command line as a program: what it imports, prints, and exits with."""

import json
import os
import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "nats", "httpx", "fastapi", "uvicorn", "pydantic", "matplotlib", "tokenizers")


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | variables
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False, timeout=60
    )


def test_the_command_tree_imports_nothing_heavy() -> None:
    code = f"import sys, sagellm.cli.main as m; m.build(); print([x for x in {HEAVY} if x in sys.modules])"
    assert run("-c", code).stdout.strip() == "[]"


def test_help_names_every_command() -> None:
    shown = run("-m", "sagellm", "--help").stdout
    for command in (
        "up",
        "demo",
        "chat",
        "ingress",
        "scheduler",
        "worker",
        "models",
        "plan",
        "simulate",
        "asyncapi",
        "bench",
        "version",
    ):
        assert f" {command} " in shown


def test_version_is_json_for_machines() -> None:
    assert {"sagellm", "python", "torch"} <= json.loads(run("-m", "sagellm", "version", "--json").stdout).keys()


def test_asyncapi_is_a_json_document() -> None:
    assert json.loads(run("-m", "sagellm", "asyncapi").stdout)["asyncapi"].startswith("3.")


@pytest.mark.parametrize("service", ["ingress", "scheduler", "worker"])
def test_a_service_without_nats_says_one_sentence(service: str) -> None:
    result = run(
        *("-m", "sagellm", service, "--nats-url", "nats://127.0.0.1:1"),
        SAGELLM_NATS_CONNECT_TIMEOUT_S="0.2",
        SAGELLM_ENGINE="mock",
    )
    assert result.returncode == 1
    assert result.stderr == (
        "sagellm: nothing answers as NATS at 127.0.0.1:1; start a nats-server there, or give --nats-url\n"
    )


def test_a_setting_out_of_range_is_named() -> None:
    result = run("-m", "sagellm", "scheduler", SAGELLM_MAX_ATTEMPTS="0")
    assert result.returncode == 1
    assert result.stderr.startswith("sagellm: settings cannot be used: SAGELLM_MAX_ATTEMPTS: ")


def test_a_model_alias_that_does_not_exist_is_one_sentence() -> None:
    result = run("-m", "sagellm", "models", "show", "no-such-model")
    assert result.returncode == 1
    assert result.stderr.startswith("sagellm: there is no model alias 'no-such-model'; there are ")


def test_models_lists_the_aliases_for_machines() -> None:
    listed = json.loads(run("-m", "sagellm", "models", "list", "--json", SAGELLM_CACHE="/nonexistent").stdout)
    assert {"name": "smollm2-135m-instruct", "path": None}.items() <= listed[0].items()
