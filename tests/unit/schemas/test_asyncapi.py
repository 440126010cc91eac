"""The AsyncAPI document: whole, consistent, and about the subjects that are really used."""

import inspect
import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

import sagellm_schemas
from sagellm_schemas import subjects
from sagellm_schemas.asyncapi import PARAMETERS, document


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    return json.loads(json.dumps(document("9.9")))


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from references(item)


def resolve(described: dict[str, Any], reference: str) -> Any:
    found: Any = described
    for step in reference.removeprefix("#/").split("/"):
        found = found[step]
    return found


def test_every_reference_leads_somewhere(described: dict[str, Any]) -> None:
    found = set(references(described))
    assert found
    for reference in found:
        assert resolve(described, reference), reference


def test_it_has_what_asyncapi_3_requires(described: dict[str, Any]) -> None:
    assert described["asyncapi"] == "3.0.0"
    assert described["info"]["title"]
    assert described["info"]["version"] == "9.9"
    for operation in described["operations"].values():
        assert operation["action"] in ("send", "receive")
        channel = operation["channel"]["$ref"]
        for message in operation["messages"]:
            assert message["$ref"].startswith(f"{channel}/messages/")
    for channel in described["channels"].values():
        address = channel["address"] or ""
        assert {name for name in PARAMETERS if f"{{{name}}}" in address} == set(channel.get("parameters", {}))


def test_every_struct_that_crosses_the_wire_is_described(described: dict[str, Any]) -> None:
    structs = {
        name
        for name, kind in vars(sagellm_schemas).items()
        if inspect.isclass(kind) and issubclass(kind, msgspec.Struct)
    }
    assert structs <= set(described["components"]["schemas"])


def test_schemas_say_what_is_required_and_keep_the_docstrings(described: dict[str, Any]) -> None:
    request = described["components"]["schemas"]["InferenceRequest"]
    assert request["required"] == ["model"]
    assert request["properties"]["sampling"]["$ref"].endswith("/SamplingParams") or "anyOf" in str(request)
    assert "One answer to produce." in request["description"]
    assert described["components"]["messages"]["Frame"]["summary"].startswith("The events of one engine step")


def test_addresses_are_the_subjects_that_services_use(described: dict[str, Any]) -> None:
    made = {
        "requests": subjects.requests("X"),
        "infer": subjects.infer("X"),
        "replies": subjects.replies("X"),
        "results": subjects.results("X"),
        "cancel": subjects.CANCEL,
        "deadletter": subjects.deadletter("X"),
        "work": subjects.work("X", "X"),
        "reports": subjects.reports("X"),
        "stats": subjects.stats("X"),
        "control": subjects.control("X"),
        "held": subjects.held("X"),
    }
    for name, subject in made.items():
        address = described["channels"][name]["address"]
        for parameter in PARAMETERS:
            address = address.replace(f"{{{parameter}}}", "X")
        assert address == subject
