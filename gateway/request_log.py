"""One line for each request that ended, for ``trace info``, ``trace fit`` and ``simulate``: when it came and how large
it was, never what it said.

Writing happens in a thread twice a second, so that a slow disk keeps no user waiting; what cannot be written is lost,
counted and told once. Who asked, and in which session, is a keyed hash: the same person is the same word, and without
the site's secret nobody can find out who by trying names. A gateway that is killed loses the last half second.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import hmac
import json
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from broker.model.errors import ConfigError
from gateway.settings import RequestLogSettings

log = structlog.get_logger(__name__)

SESSION_HEADER = "X-Session-Id"
FLUSH_S = 0.5
MOST_WAITING = 200_000
"""Lines kept for a disk that answers slowly, some 40 MB."""

_CHARACTERS_PER_TOKEN = 4
"""A usual figure for English text; languages and tokenizers differ by half."""

_OLDER_FILES = 9
_TAIL_BYTES = 1 << 16


class RequestLog:
    """``add`` never waits and never fails. ``run`` until cancelled, then ``close``. Raises ``ConfigError`` for a file
    that cannot be written."""

    def __init__(self, settings: RequestLogSettings, secret: bytes) -> None:
        self._path = settings.path
        self._limit_bytes = settings.limit_bytes
        self._secret = secret
        self._waiting: list[dict[str, Any]] = []
        self._failing = False
        self._writing: asyncio.Future[None] | None = None
        self.lost = 0
        try:
            self._file = _LogFile(self._path)
        except OSError as error:
            raise ConfigError(
                f"cannot write the request log: {error.strerror}; choose another file", path=str(self._path)
            ) from None

    def add(self, row: Mapping[str, Any], *, tenant: str | None, session: str | None) -> None:
        """``row`` as docs/traces.md has it, without the two that are hashed here."""
        if len(self._waiting) >= MOST_WAITING:
            self.lost += 1
            return
        names = {"tenant": tenant, "session": session}
        hashed = {kind: self._hashed(kind, name) for kind, name in names.items() if name}
        self._waiting.append({**row, **hashed})

    def _hashed(self, kind: str, name: str) -> str:
        message = f"tidegate request log\0{kind}\0{name}".encode("utf-8", "surrogateescape")
        return hmac.new(self._secret, message, hashlib.sha256).hexdigest()[:16]

    async def run(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            await self.flush()

    async def close(self) -> None:
        await self.flush()
        await asyncio.to_thread(self._file.close)

    async def flush(self) -> None:
        """Write what waits; what cannot be written is lost. Cancelled, it is written all the same: lines whose write no
        thread had begun yet were once lost at a gateway's end."""
        if self._writing is not None:
            await asyncio.wait([self._writing])
        rows, self._waiting = self._waiting, []
        if rows:
            self._writing = asyncio.ensure_future(asyncio.to_thread(self._write, rows))
            await asyncio.shield(self._writing)

    def _write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        content = b"".join(json.dumps(row, separators=(",", ":")).encode() + b"\n" for row in rows)
        try:
            if self._file.was_moved:
                self._file = self._file.reopened()
            elif self._file.size and self._file.size + len(content) > self._limit_bytes:
                self._file = self._file.rotated()
            self._file.write(content)
        except OSError as error:
            self.lost += len(rows)
            if not self._failing:
                log.error("request_log_failing", path=str(self._path), problem=error.strerror, effect="lines are lost")
            self._failing = True
        else:
            if self._failing:
                log.info("request_log_written_again", path=str(self._path), lost=self.lost)
            self._failing = False


class _LogFile:
    """A file of whole lines that only its owner may read and one process writes. Everything raises ``OSError``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            status = os.fstat(self._descriptor)
            self._identity = (status.st_dev, status.st_ino)
            self._regular = stat.S_ISREG(status.st_mode)
            self.size = 0
            if self._regular:
                self._lock()
                os.fchmod(self._descriptor, 0o600)
                self._drop_torn_line(status.st_size)
        except OSError:
            os.close(self._descriptor)
            raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OSError(errno.EBUSY, "another process writes it") from None

    def _drop_torn_line(self, size: int) -> None:
        """Of a gateway that was killed while it wrote: a reader would stop at half a line."""
        begin = max(0, size - _TAIL_BYTES)
        tail = os.pread(self._descriptor, _TAIL_BYTES, begin)
        if size and (os.pread(self._descriptor, 1, 0) != b"{" or (begin and b"\n" not in tail)):
            raise OSError(errno.EEXIST, "it is there already and is no request log")
        self.size = begin + tail.rfind(b"\n") + 1
        if self.size < size:
            os.ftruncate(self._descriptor, self.size)

    def close(self) -> None:
        os.close(self._descriptor)

    @property
    def was_moved(self) -> bool:
        """Somebody else rotates or removes it."""
        if not self._regular:
            return False
        try:
            status = os.stat(self._path)
        except FileNotFoundError:
            return True
        return (status.st_dev, status.st_ino) != self._identity

    def reopened(self) -> _LogFile:
        opened = _LogFile(self._path)
        self.close()
        return opened

    def rotated(self) -> _LogFile:
        for number in range(_OLDER_FILES, 0, -1):
            older = self._path.with_name(f"{self._path.name}.{number}")
            newer = self._path if number == 1 else self._path.with_name(f"{self._path.name}.{number - 1}")
            if newer.exists():
                os.replace(newer, older)
        return self.reopened()

    def write(self, content: bytes) -> None:
        """All of it or, of a regular file, nothing: half a line would spoil the next one."""
        written = 0
        try:
            while written < len(content):
                written += os.write(self._descriptor, content[written:])
        except OSError:
            if self._regular:
                os.ftruncate(self._descriptor, self.size)
            raise
        self.size += written * self._regular


def prompt_tokens_about(asked: Mapping[str, Any]) -> int:
    """A prompt's tokens where no engine tells: a quarter of its characters, or the tokens themselves."""
    prompt = asked.get("prompt", asked.get("input"))
    messages = asked.get("messages")
    said = [message.get("content") for message in _items(messages) if isinstance(message, dict)]
    return max(1, round(_tokens(prompt) + sum(_tokens(text) for text in said)))


def _tokens(said: Any) -> float:
    """Of a text, token numbers, or a list of texts, token lists or a message's parts."""
    if isinstance(said, str):
        return len(said) / _CHARACTERS_PER_TOKEN
    parts = (part.get("text") if isinstance(part, dict) else part for part in _items(said))
    return sum(1.0 if isinstance(part, int) else _tokens(part) for part in parts)


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
