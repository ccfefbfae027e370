"""Users' keys from a file, and the engines' keys derived from the site's secret. The two never meet.

The file has one ``NAME KEY`` per line, ``#`` begins a comment. KEY is the key itself or ``sha256:`` and the 64 hex
digits of its SHA-256. A name may have several keys, so that they can be rotated. The file is read again when it
changes; a damaged or missing one leaves the keys as they were, because locking all users out mends nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
from collections.abc import Mapping
from pathlib import Path

import structlog

from broker.model.errors import ConfigError
from broker.model.identity import endpoint_key
from broker.model.replica import EndpointRecord

log = structlog.get_logger(__name__)

_HASHED = re.compile(r"sha256:([0-9a-fA-F]{64})")
_Stamp = tuple[int, int, int]


def parse_keys(text: str, path: str) -> dict[bytes, str]:
    """User names by the SHA-256 of their keys. Raises ``ConfigError`` with the line, never with a key in it."""
    names: dict[bytes, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.split("#", 1)[0].split()
        if not fields:
            continue
        if len(fields) != 2:
            raise ConfigError("write NAME KEY, with KEY plain or as sha256:HEX", path=path, line=number)
        name, key = fields
        hashed = _HASHED.fullmatch(key)
        if key.startswith("sha256:") and hashed is None:
            raise ConfigError("sha256: wants 64 hexadecimal digits after it", path=path, line=number)
        digest = bytes.fromhex(hashed[1]) if hashed else hashlib.sha256(key.encode()).digest()
        if names.setdefault(digest, name) != name:
            raise ConfigError(
                f"{name} and {names[digest]} have the same key; give each its own", path=path, line=number
            )
    return names


class UserKeys:
    """Who may use the gateway. Without a file everybody may, which settings allow on loopback only."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._stamp: _Stamp | None = None
        self._names: Mapping[bytes, tuple[bytes, str]] = {}
        if path is not None:
            try:
                self._read(path)
            except OSError as error:
                raise ConfigError(f"cannot read the keys file: {error.strerror}", path=str(path)) from None

    @property
    def open_to_all(self) -> bool:
        return self._path is None

    def user_of(self, authorization: str | None) -> str | None:
        """The user whose key a header carries; "anonymous" if no keys are asked for, None if it has no valid one.

        Only hashes are compared, found by 8 bytes and then compared whole in constant time: how long it takes says
        nothing that would help to guess a key.
        """
        if self.open_to_all:
            return "anonymous"
        scheme, _, key = (authorization or "").partition(" ")
        digest = hashlib.sha256(key.strip().encode("utf-8", "surrogateescape")).digest()
        known, name = self._names.get(digest[:8], (b"", ""))
        return name if scheme.lower() == "bearer" and hmac.compare_digest(known, digest) else None

    def refresh(self) -> None:
        """Read the file again if it changed."""
        if self._path is None:
            return
        try:
            if _stamp_of(self._path) != self._stamp:
                self._read(self._path)
                log.info("user_keys_read", path=str(self._path), keys=len(self._names))
        except (ConfigError, OSError) as error:
            log.error("user_keys_unreadable", problem=str(error), effect="the keys read before stay valid")

    async def watch(self, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            self.refresh()

    def _read(self, path: Path) -> None:
        self._stamp = _stamp_of(path)  # a damaged file is complained of once, not at every look
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            raise ConfigError("the keys file is not UTF-8 text", path=str(path)) from None
        self._names = {digest[:8]: (digest, name) for digest, name in parse_keys(text, str(path)).items()}


class EngineKeys:
    """The ``Authorization`` header of each endpoint."""

    def __init__(self, site_secret: bytes) -> None:
        self._site_secret = site_secret

    def authorization(self, record: EndpointRecord) -> str:
        return f"Bearer {endpoint_key(self._site_secret, record.endpoint_id, record.generation)}"


def _stamp_of(path: Path) -> _Stamp:
    status = path.stat()
    return status.st_ctime_ns, status.st_size, status.st_ino
