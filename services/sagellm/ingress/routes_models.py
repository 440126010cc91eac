"""`GET /v1/models` and `/v1/models/{id}`."""

import msgspec
from fastapi import APIRouter, Response

from sagellm_schemas import ModelCard

from .openai.responses import ModelDocument, ModelList
from .service import Service


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/v1/models", tags=["models"])

    @routes.get("", summary="List the models that can be asked for")
    async def list_models() -> Response:
        return _json(ModelList(data=[_document(card) for card in service.models.cards()]))

    @routes.get("/{model_id:path}", summary="One model")
    async def get_model(model_id: str) -> Response:
        return _json(_document(service.models.find(model_id).card))

    return routes


def _document(card: ModelCard) -> ModelDocument:
    return ModelDocument(
        id=card.name,
        created=card.created,
        owned_by=card.owned_by,
        max_model_len=card.max_model_len,
        parent=card.parent or None,
    )


def _json(document: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(document), media_type="application/json")
