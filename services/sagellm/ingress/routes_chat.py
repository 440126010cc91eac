"""`POST /v1/chat/completions`."""

from .endpoint import Dialect, Endpoint
from .openai.bodies import ChatBody
from .openai.stream import CHAT
from .openai.translate import chat_requests
from .openai.whole import Collector
from .service import Service

PATH = "/v1/chat/completions"


def chat_endpoint(service: Service) -> Endpoint[ChatBody]:
    """The route as an ASGI application."""
    return Endpoint(
        service,
        Dialect(
            name="chat",
            id_prefix="chatcmpl-",
            body=ChatBody,
            requests=chat_requests,
            echo=lambda _body, _model: [],
            wording=CHAT,
            document=Collector.chat,
        ),
    )
