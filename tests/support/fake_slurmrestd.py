"""A slurmrestd that answers with recordings of real ones."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

NOW = 1_795_261_300.0
"""A little after the recordings were made."""


class FixedClock:
    """A ``Clock`` that a test sets."""

    def __init__(self, at: float = NOW) -> None:
        self.at = at

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at

    async def sleep_until(self, when: float) -> None:
        self.at = max(self.at, when)


def jwt(issued_at: float = NOW, expires_at: float = NOW + 1800.0, user: str | None = "root") -> str:
    """A token as ``scontrol token`` makes it; its signature is none."""
    claims: dict[str, object] = {"exp": int(expires_at), "iat": int(issued_at)}
    parts = [{"alg": "HS256", "typ": "JWT"}, claims | ({"sun": user} if user else {})]
    coded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join([*coded, "c2lnbmF0dXJlLW9mLW5vYm9keQ"])


def recorded(folder: Path, name: str) -> dict[str, Any]:
    """``request``, ``status``, ``headers`` and ``body`` of one recording."""
    loaded: dict[str, Any] = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return loaded


class FakeSlurmrestd(httpx.AsyncBaseTransport):
    """Of the release and parser whose recordings stand in ``folder``; other parsers are unknown to it. ``answers``
    names recordings by call (``submit``, ``delete``, ``jobs``, ``jobs_state``...), which is the recording's name
    otherwise; an exception there is raised instead. ``asked`` is what it was asked."""

    def __init__(self, folder: Path, **answers: str | Exception | httpx.Response) -> None:
        self.asked: list[httpx.Request] = []
        self.answers = answers
        self.become(folder)

    def become(self, folder: Path) -> None:
        """Another release or parser."""
        self._folder = folder
        self.parser = folder.name.partition("-")[2]

    @property
    def calls(self) -> Sequence[str]:
        return [_call(request) for request in self.asked]

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        if request.url.path.split("/")[2] != self.parser:
            return self._response("err-unknown-path")
        answer = self.answers.get(_call(request).replace("-", "_"), _call(request))
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, httpx.Response) else self._response(answer)

    def _response(self, name: str) -> httpx.Response:
        recording = recorded(self._folder, name)
        body = recording["body"]
        if "_raw_text" in body:
            return httpx.Response(recording["status"], text=body["_raw_text"])
        return httpx.Response(recording["status"], json=body)


def _call(request: httpx.Request) -> str:
    parts = request.url.path.strip("/").split("/")[2:]
    if request.method == "DELETE":
        return "delete"
    return parts[-1] if parts[0] == "job" else "-".join(parts)
