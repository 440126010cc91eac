"""What a benchmark measures: servers by label, or the engine in this process. All behind one `run`."""

from typing import Protocol

import msgspec

from sagellm.cli.openai_client import OpenAIClient
from sagellm_schemas import InvalidRequest, ModelNotFound

from .load import Run, run_load
from .prompts import Prompts, RequestWriter


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """The shape of one run's requests."""

    requests: int
    concurrency: int
    output_tokens: int


class Target(Protocol):
    """Something that can be loaded."""

    label: str

    async def run(self, shape: Shape, prompts: Prompts) -> Run:
        """Send requests of that shape, with the next prompts of the supply."""
        ...

    def describe(self) -> dict[str, object]:
        """What it is, for the JSON."""
        ...


class Server:
    """An OpenAI server."""

    def __init__(self, label: str, url: str, model: str, timeout_s: float) -> None:
        self.label = label
        self._url = url
        self._model = model
        self._timeout_s = timeout_s

    async def run(self, shape: Shape, prompts: Prompts) -> Run:
        """See `Target`."""
        writer = RequestWriter(self._model, prompts, shape.output_tokens)
        bodies = [writer.body() for _ in range(shape.requests)]
        return await run_load(self._url, writer.path, bodies, shape.concurrency, self._timeout_s)

    def describe(self) -> dict[str, object]:
        """See `Target`."""
        return {"label": self.label, "url": self._url, "model": self._model}


async def find_server(label: str, url: str, model: str | None, timeout_s: float) -> Server:
    """The server at `url`, with `model` or else the first that it names.

    Raises:
        Unavailable: nothing usable answers there.
        ModelNotFound: it does not serve that model, or none.
    """
    client = OpenAIClient(url)
    try:
        names = await client.models()
    finally:
        await client.close()
    if model is not None and model not in names:
        raise ModelNotFound(f"{url} does not serve {model!r}, but {', '.join(names) or 'nothing'}")
    if not names:
        raise ModelNotFound(f"{url} serves no model")
    return Server(label, url.rstrip("/"), model or names[0], timeout_s)


def parse_target(text: str) -> tuple[str, str]:
    """Label and URL of `LABEL=URL`.

    Raises:
        InvalidRequest: it is not of that form.
    """
    label, found, url = text.partition("=")
    if not (label and found and url):
        raise InvalidRequest(f"--compare takes LABEL=URL, not {text!r}")
    return label, url
