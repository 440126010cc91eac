"""`POST /v1/completions`."""

from .endpoint import Dialect, Endpoint
from .openai.bodies import CompletionBody
from .openai.stream import COMPLETION
from .openai.translate import completion_requests, echo_texts
from .openai.whole import Collector
from .service import Service

PATH = "/v1/completions"


def completions_endpoint(service: Service) -> Endpoint[CompletionBody]:
    """The route as an ASGI application."""
    return Endpoint(
        service,
        Dialect(
            name="completions",
            id_prefix="cmpl-",
            body=CompletionBody,
            requests=completion_requests,
            echo=echo_texts,
            wording=COMPLETION,
            document=Collector.completion,
        ),
    )
