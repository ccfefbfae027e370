"""The OpenAPI document of the broker's API, with the wire's own schemas in it."""

from __future__ import annotations

import json
from typing import Any

from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, Response
from starlette.routing import BaseRoute

from broker.app.bodies import ErrorAnswer
from broker.model.json_schema import Schema, schema_of
from broker.model.signals import RequestSummary
from broker.model.wire import tag_of

_DESCRIPTION = """\
What gateways follow, what operators ask and order. Every path except `/healthz` and `/openapi.json` wants
`Authorization: Bearer TOKEN`. A token has one scope: `read`, `operate` (which includes `read`) or `gateway`.
Every error has the body of `error_answer`.
"""

API_VERSION = "1"

_ERRORS = {
    401: "No token, or none of the broker's.",
    403: "The token's scope does not include this.",
    404: "There is nothing of this name.",
    409: "It stands against what is declared.",
    413: "The body is larger than 8 MiB.",
    422: "The body or a parameter is not as described.",
    503: "The broker's log cannot be written, or its first step is still to come.",
}


def answers(
    body: type | None,
    *errors: int,
    is_list: bool = False,
    kind: type[Response] = JSONResponse,
    words: str = "Done.",
) -> dict[str, Any]:
    """What a route's decorator needs so that the document tells its answers: ``body`` (None: text), ``errors``."""
    schema = {"type": "string"} if body is None else _reference(body)
    content = {"schema": {"type": "array", "items": schema} if is_list else schema}
    told: dict[int | str, dict[str, Any]] = {200: {"description": words, "content": {kind.media_type: content}}}
    for status in errors:
        told[status] = {
            "description": _ERRORS[status],
            "content": {"application/json": {"schema": _reference(ErrorAnswer)}},
        }
    return {"status_code": 200, "response_class": kind, "response_model": None, "responses": told}


def document(routes: list[BaseRoute], bodies: tuple[type, ...]) -> dict[str, Any]:
    """The whole document. ``bodies`` are the wire's types that its answers refer to."""
    made = get_openapi(title="Tidegate broker", version=API_VERSION, description=_DESCRIPTION, routes=routes)
    components = made.setdefault("components", {})
    schemas: dict[str, Any] = components.setdefault("schemas", {})
    for body in (*bodies, ErrorAnswer, RequestSummary):
        schemas.update(_definitions(body))
    session = schemas["GatewaySessionBody"]["properties"]["summaries"]
    session["items"] = _reference(RequestSummary)
    components["schemas"] = dict(sorted(schemas.items()))
    return made


def _reference(body: type) -> Schema:
    return {"$ref": f"#/components/schemas/{tag_of(body)}"}


def _definitions(body: type) -> dict[str, Any]:
    """The schema of ``body`` and of all that it refers to, by name, with references as OpenAPI has them."""
    text = json.dumps(schema_of(body)).replace('"#/$defs/', '"#/components/schemas/')
    definitions: dict[str, Any] = json.loads(text)["$defs"]
    return definitions


def document_text(made: dict[str, Any]) -> str:
    """The document as it is committed."""
    return json.dumps(made, indent=2) + "\n"
