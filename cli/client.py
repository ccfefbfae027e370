"""The commands' way to a running broker: its HTTP API, with errors in words."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from broker.app.settings import SiteSettings
from cli.output import Exit, fail
from cli.site import DEFAULT_BROKER, broker_address, chosen_site, token_of

READING = ("read_token", "operate_token")
OPERATING = ("operate_token",)


class BrokerClient:
    """Asks the broker that the options name.

    The address: ``broker``, else the site file's, else the default one. The token: ``token``, else TIDEGATE_TOKEN,
    else the first of ``scopes`` that the environment or the site file has. Raises ``ConfigError`` for the site file.
    """

    def __init__(
        self, broker: str | None, token: str | None, site: Path | None, *, scopes: Sequence[str] = READING,
        timeout_s: float = 15.0,
    ) -> None:  # fmt: skip
        settings = chosen_site(site, needed=broker is None)
        self._url = _checked_url(broker or _site_address(settings) or DEFAULT_BROKER)
        found = _checked_token(token or os.environ.get("TIDEGATE_TOKEN") or token_of(settings, scopes))
        headers = {"Authorization": f"Bearer {found}"} if found else {}
        try:
            self._client = httpx.Client(base_url=self._url, headers=headers, timeout=timeout_s, trust_env=False)
        except httpx.InvalidURL as error:
            raise _no_address(self._url, str(error)) from None

    def get(self, *path: str, **parameters: str | int | float | None) -> Any:
        """``path`` in segments, each of which may hold any characters."""
        given = {name: value for name, value in parameters.items() if value is not None}
        return self._ask("GET", path, params=given)

    def post(self, *path: str, body: dict[str, Any]) -> Any:
        return self._ask("POST", path, json=body)

    def delete(self, *path: str, **parameters: str) -> Any:
        return self._ask("DELETE", path, params=parameters)

    def _ask(self, method: str, segments: Sequence[str], **arguments: Any) -> Any:
        """The answer's JSON. Ends the command with words if there is none."""
        path = "/" + "/".join(quote(segment, safe="") for segment in segments)
        try:
            with self._client as client:
                response = client.request(method, path, **arguments)
        except httpx.InvalidURL as error:
            raise _no_address(self._url, str(error)) from None
        except httpx.HTTPError as error:
            raise fail(
                f"no broker answers at {self._url} ({str(error) or type(error).__name__}). Is `tidegate run` up? Another "
                "address: --broker, TIDEGATE_BROKER or --site.",
                Exit.UNREACHABLE,
            ) from None
        try:
            body = response.json()
        except ValueError:
            raise fail(
                f"{self._url} answers {response.status_code} but not as a Tidegate broker", Exit.UNREACHABLE
            ) from None
        if response.is_success:
            return body
        error_body = body.get("error") if isinstance(body, dict) else None
        message = error_body.get("message") if isinstance(error_body, dict) else None
        if response.status_code == 401:
            message = f"{message}. Set TIDEGATE_TOKEN, or give --token or --site"
        words = message or f"{response.status_code} {response.text}"
        if response.status_code < 500:
            raise fail(f"the broker refused: {words}", Exit.REFUSED)
        raise fail(f"the broker cannot do it now: {words}")


def _site_address(settings: SiteSettings | None) -> str | None:
    return None if settings is None else broker_address(settings)


def _checked_url(url: str) -> str:
    if not re.match(r"https?://[^/]", url):
        raise _no_address(url, "it begins with http:// or https://")
    return url.rstrip("/")


def _no_address(url: str, why: str) -> Exception:
    return fail(f"{url!r} is no address of a broker: {why}", Exit.USAGE)


def _checked_token(token: str) -> str:
    if not re.fullmatch(r"[!-~]*", token.strip()):
        raise fail("the token has characters that no token of a broker has", Exit.USAGE)
    return token.strip()
