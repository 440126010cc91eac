"""Fields of OpenAI's that are known here and not implemented: refused by name, since ignoring one would answer
another question than was asked. A value that asks for nothing (null, an empty list, the default) is let through.
"""

from sagellm_schemas import InvalidRequest, UnsupportedParameter

from .bodies import ChatBody, CompletionBody, GenerationBody


def refuse_chat_fields(body: ChatBody) -> None:
    """
    Raises:
        UnsupportedParameter: a field asks for something that a chat cannot have here.
    """
    _refuse_common_fields(body)
    for name in ("tools", "functions", "audio", "prediction", "web_search_options", "store"):
        if getattr(body, name):
            raise _unsupported(name)
    for name in ("tool_choice", "function_call"):
        if getattr(body, name) not in (None, "none", "auto"):
            raise _unsupported(name)
    for name in ("reasoning_effort", "verbosity"):
        if getattr(body, name) is not None:
            raise _unsupported(name)
    if body.response_format not in (None, {"type": "text"}):
        raise _unsupported("response_format", "only {'type': 'text'} is")
    if body.modalities not in (None, ["text"]):
        raise _unsupported("modalities", "only ['text'] is")


def refuse_completion_fields(body: CompletionBody) -> None:
    """
    Raises:
        UnsupportedParameter: a field asks for something that a plain completion cannot have here.
    """
    _refuse_common_fields(body)
    if body.suffix:
        raise _unsupported("suffix")
    if body.best_of not in (None, 1, body.n):
        raise _unsupported("best_of", "only a value equal to n is")
    if body.echo and body.logprobs is not None:
        raise _unsupported("echo", "not together with logprobs")


def _refuse_common_fields(body: GenerationBody) -> None:
    if body.logit_bias:
        raise _unsupported("logit_bias")
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest("stream_options needs stream to be true", param="stream_options")


def _unsupported(name: str, detail: str = "") -> UnsupportedParameter:
    return UnsupportedParameter(f"{name} is not supported{'; ' + detail if detail else ''}", param=name)
