"""The commands' way to a running broker: its HTTP API, with errors in words."""

from __future__ import annotations

import os
from typing import Any

import httpx

from cli.output import Exit, fail

DEFAULT_BROKER = "http://127.0.0.1:8600"


class BrokerClient:
    """``token`` falls back to TIDEGATE_TOKEN, then to the operate and read tokens of the environment."""

    def __init__(self, url: str, token: str | None, *, timeout_s: float = 10.0) -> None:
        self._url = url.rstrip("/")
        names = ("TIDEGATE_TOKEN", "TIDEGATE_OPERATE_TOKEN", "TIDEGATE_READ_TOKEN")
        found = token or next((os.environ[name] for name in names if os.environ.get(name)), "")
        self._client = httpx.Client(
            base_url=self._url, headers={"Authorization": f"Bearer {found}"}, timeout=timeout_s, trust_env=False
        )

    def get(self, path: str, **parameters: str | int | float | None) -> Any:
        given = {name: value for name, value in parameters.items() if value is not None}
        return self._ask("GET", path, params=given)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        return self._ask("POST", path, json=body)

    def delete(self, path: str, **parameters: str) -> Any:
        return self._ask("DELETE", path, params=parameters)

    def _ask(self, method: str, path: str, **arguments: Any) -> Any:
        """The answer's JSON. Ends the command with words if there is none."""
        try:
            response = self._client.request(method, path, **arguments)
        except httpx.HTTPError as error:
            raise fail(
                f"no broker answers at {self._url} ({error}). Is `tidegate run` up? Another address: --broker or "
                "TIDEGATE_BROKER.",
                Exit.UNREACHABLE,
            ) from None
        except httpx.InvalidURL as error:
            raise fail(f"{self._url!r} is no address of a broker: {error}", Exit.USAGE) from None
        try:
            body = response.json()
        except ValueError:
            raise fail(
                f"{self._url} answers {response.status_code} but not as a Tidegate broker", Exit.UNREACHABLE
            ) from None
        if response.is_success:
            return body
        message = body.get("error", {}).get("message", response.text) if isinstance(body, dict) else response.text
        if response.status_code == 401:
            message += ". Set TIDEGATE_TOKEN or give --token."
        raise fail(f"the broker refused: {message}", Exit.REFUSED if response.status_code < 500 else Exit.FAILED)
