"""The flags that several commands share. None means: the setting of that name decides."""

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str | None,
    typer.Option(help="Model: folder, GGUF file, Hugging Face id or alias.", show_default="smollm2-135m-instruct"),
]
Engine = Annotated[
    str | None,
    typer.Option(help="Engine of the workers: sagellm, vllm (a running server) or mock.", show_default="sagellm"),
]
VllmUrl = Annotated[
    str | None,
    typer.Option(help="Base URL of a running vLLM server.", show_default="http://127.0.0.1:8001"),
]
Role = Annotated[
    str | None,
    typer.Option(help="Role: general, prefilling, decoding, hybrid or embedding.", show_default="general"),
]
InstanceId = Annotated[str | None, typer.Option(help="Name of the worker; a random suffix is added.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu or cuda.", show_default="auto")]
Dtype = Annotated[
    str | None, typer.Option(help="Type of the weights: auto, float32, bfloat16 or float16.", show_default="auto")
]
Quantization = Annotated[
    str | None, typer.Option(help="Round the weights of an unquantized model on load: int8 or int4.")
]
Threads = Annotated[int | None, typer.Option(help="CPU threads of the engine; by the machine if not given.")]
MaxModelLen = Annotated[int | None, typer.Option(help="Prompt and output tokens; the model's if not given.")]
MaxNumSeqs = Annotated[
    int | None, typer.Option(help="Requests that run at once in one worker.", show_default="64")
]
MaxBatchedTokens = Annotated[int | None, typer.Option(help="Tokens of one engine step.", show_default="512")]
KvCacheBytes = Annotated[int | None, typer.Option(help="Memory of the KV cache; what is free if not given.")]
Speculation = Annotated[
    str | None,
    typer.Option(
        help="Guess tokens ahead where it pays: ngram (what the text repeats), draft (a model) or off.",
        show_default="off",
    ),
]
DraftModel = Annotated[
    str | None, typer.Option(help="Model that guesses, with the vocabulary of --model; for --speculation draft.")
]
DraftTokens = Annotated[int | None, typer.Option(help="Tokens guessed ahead at most.", show_default="10")]
ServedName = Annotated[
    str | None, typer.Option(help="The model's name for clients; made from --model if not given.")
]
Adapter = Annotated[
    list[str] | None,
    typer.Option(
        help="LoRA adapter that requests can ask for as a model: its name and folder; may be repeated.",
        metavar="NAME=FOLDER",
    ),
]
Policy = Annotated[str | None, typer.Option(help="Order of the queue.", show_default="adaptive")]
Routing = Annotated[str | None, typer.Option(help="Choice of the worker.", show_default="load_balanced")]
PdPolicy = Annotated[
    str | None, typer.Option(help="What prefilling instances are used for.", show_default="adaptive")
]
Host = Annotated[str | None, typer.Option(help="Address the ingress listens on.", show_default="127.0.0.1")]
Port = Annotated[
    int | None, typer.Option(help="Port the ingress listens on; 0 picks a free one.", show_default="8000")
]
NatsUrl = Annotated[
    str | None,
    typer.Option(help="NATS server, or several separated by commas.", show_default="nats://127.0.0.1:4222"),
]
UpNatsUrl = Annotated[
    str | None, typer.Option("--nats-url", help="NATS server to use; an embedded one is started if not given.")
]
Workers = Annotated[int, typer.Option(help="Number of workers.", min=1)]
Schedulers = Annotated[int, typer.Option(help="Number of schedulers: one leads, the others stand by.", min=1)]
StateDir = Annotated[
    Path | None,
    typer.Option(help="Folder of the embedded NATS server's store.", show_default="~/.local/state/sagellm"),
]
LogLevel = Annotated[
    str | None, typer.Option(help="Least level logged: debug, info, warning or error.", show_default="info")
]
MetricsPort = Annotated[
    int | None, typer.Option(help="Port for Prometheus; 0 picks a free one. Off if not given.")
]
MockTtftMs = Annotated[
    float | None, typer.Option(help="Mock engine: time to first token, in ms.", show_default="0")
]
MockTpotMs = Annotated[
    float | None, typer.Option(help="Mock engine: time per output token, in ms.", show_default="0")
]
MockText = Annotated[str | None, typer.Option(help="Mock engine: what it says, over and over.")]
Url = Annotated[str, typer.Option(help="Base URL of an OpenAI-compatible server.", envvar="SAGELLM_URL")]

OfModel = Annotated[str | None, typer.Option("--model", help="Only those of this model.")]
OfUser = Annotated[str | None, typer.Option("--user", help="Only those of this user.")]
OfPriority = Annotated[str | None, typer.Option("--priority", help="Only those of this priority.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]

DEFAULT_URL = "http://127.0.0.1:8000"


def leaves_it_to_a_subcommand(context: typer.Context) -> bool:
    """Whether a group that does something by itself was called with a subcommand.

    Raises:
        InvalidRequest: with options of its own, too, which would have no effect.
    """
    if context.invoked_subcommand is None:
        return False
    sources = [context.get_parameter_source(name) for name in context.params]
    if any(source is not None and source.name == "COMMANDLINE" for source in sources):
        from sagellm_schemas import InvalidRequest

        raise InvalidRequest(
            f"put options behind the subcommand: {context.command_path} {context.invoked_subcommand}"
        )
    return True


def adapters(given: list[str] | None) -> dict[str, str] | None:
    """The setting `adapters` of the flags `--adapter`; None if there are none.

    Raises:
        SettingsError: one is not a name and a folder, or a name comes twice.
    """
    if not given:
        return None
    from sagellm_schemas import SettingsError

    found: dict[str, str] = {}
    for text in given:
        name, _, folder = text.partition("=")
        if not name or not folder:
            raise SettingsError(f"--adapter must be NAME=FOLDER; got {text!r}", param="adapters")
        if name in found:
            raise SettingsError(f"--adapter {name} is given twice", param="adapters")
        found[name] = folder
    return found
