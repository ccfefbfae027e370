"""Errors as OpenAI's API and its clients know them: ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

import json

from aiohttp import web

from broker.model.errors import TidegateError, shown


class ApiError(TidegateError):
    """A request that is answered with an error instead of a model's output."""

    def __init__(
        self, status: int, message: str, *, kind: str, code: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.code = code
        self.retry_after_s = retry_after_s

    def body(self) -> bytes:
        error = {"message": self.message, "type": self.kind, "param": None, "code": self.code}
        return json.dumps({"error": error}).encode()

    def event(self) -> bytes:
        """The error as an event in a stream that has begun."""
        return b"data: " + self.body() + b"\n\n"

    def response(self) -> web.Response:
        headers = {} if self.retry_after_s is None else {"Retry-After": str(max(1, round(self.retry_after_s)))}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        answer = web.Response(status=self.status, body=self.body(), headers=headers, content_type="application/json")
        if self.status == 408:  # what is still to come of the request must not be taken for the next one
            answer.force_close()
        return answer


def bad_request(message: str, code: str | None = None) -> ApiError:
    return ApiError(400, message, kind="invalid_request_error", code=code)


def unauthorized() -> ApiError:
    message = "This gateway wants a valid key: send the header 'Authorization: Bearer KEY'."
    return ApiError(401, message, kind="authentication_error", code="invalid_api_key")


def too_slow(what: str, limit_s: float) -> ApiError:
    message = f"The request's {what} did not arrive within {limit_s:g} s."
    return ApiError(408, message, kind="invalid_request_error", code="request_timeout")


def gateway_failed() -> ApiError:
    return ApiError(500, "The gateway failed; its log says why.", kind="server_error")


def unknown_model(model_id: str) -> ApiError:
    message = f"The model {shown(model_id)} does not exist here; GET /v1/models lists those that do."
    return ApiError(404, message, kind="invalid_request_error", code="model_not_found")


def no_endpoint(model_id: str, waited_s: float, retry_after_s: float) -> ApiError:
    message = f"No replica of {shown(model_id)} became ready within {waited_s:.0f} s; try again later."
    return ApiError(503, message, kind="service_unavailable", code="no_ready_replica", retry_after_s=retry_after_s)


def upstream_failed(status: int, message: str, retry_after_s: float | None = None) -> ApiError:
    return ApiError(status, message, kind="upstream_error", code="upstream_failed", retry_after_s=retry_after_s)


def upstream_cut(reason: str) -> ApiError:
    message = f"The answer is incomplete: {reason}. What was received so far must not be taken as finished."
    return ApiError(502, message, kind="upstream_error", code="upstream_cut")


def message_of(body: bytes) -> str:
    """The message in an engine's error body, in OpenAI's form or vLLM's older flat one; empty if there is none."""
    try:
        error = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    if isinstance(error, dict) and isinstance(error.get("error"), dict):
        error = error["error"]
    message = error.get("message") if isinstance(error, dict) else None
    return message if isinstance(message, str) else ""
