"""`/v1/embeddings`: vectors of texts, the last token's, L2-normalised."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from gateway.calls import describing
from gateway.calls.answering import answer
from gateway.calls.asking import EMBEDDINGS
from gateway.routing import Route, needs
from services.accounts.service import Scope

router = APIRouter(tags=["inference"], route_class=Route)


@router.post(
    EMBEDDINGS.path, responses=describing.VECTORS, openapi_extra=needs(Scope.INFERENCE, **describing.EMBEDDING)
)
async def embeddings(request: Request) -> Response:
    """Embed one text or several, as numbers or as base64 of little-endian float32."""
    return await answer(request, EMBEDDINGS)
