"""JSON web tokens for slurmrestd: read from a command or a file, renewed before they expire, never shown."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from actuators.slurm.refusals import one_line
from actuators.slurm.runner import Runner
from broker.model.errors import ActionRejected, ActuatorError, TransientError
from broker.model.ports import Clock

log = structlog.get_logger(__name__)

LIFE_KEPT = 0.25
"""Of a token's life what is left when it is renewed, up to ``LONGEST_KEPT_S``: time for a few attempts."""
LONGEST_KEPT_S = 300.0
UNTOLD_LIFE_S = 300.0
"""Of a token that does not say when it expires."""
COMMAND_TIMEOUT_S = 20.0

SCONTROL_TOKEN = ("scontrol", "token")

_JWT = re.compile(r"(?:SLURM_JWT=)?([A-Za-z0-9_-]+\.([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]*)\s*")

Source = Callable[[], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Token:
    """``user`` is whom Slurm issued it to, None where it does not say. Its text is in no ``repr``."""

    text: str = field(repr=False)
    user: str | None
    issued_at: float
    expires_at: float

    @property
    def life_s(self) -> float:
        return self.expires_at - self.issued_at

    @property
    def renew_at(self) -> float:
        return self.expires_at - min(LONGEST_KEPT_S, LIFE_KEPT * self.life_s)


def from_file(path: Path) -> Source:
    """A file that somebody else keeps fresh; it is read again whenever a token is due."""

    async def read() -> str:
        try:
            return await asyncio.to_thread(path.read_text, encoding="ascii", errors="replace")
        except OSError as error:
            raise TransientError(
                f"no token for slurmrestd from {path}: {error.strerror or error}; write one there, for instance with "
                "`scontrol token`, readable for this user only"
            ) from None

    return read


def from_command(runner: Runner, arguments: Sequence[str] = SCONTROL_TOKEN) -> Source:
    """What ``arguments`` print: a token, with or without ``SLURM_JWT=`` before it."""

    async def read() -> str:
        done = await runner.run(arguments, timeout_s=COMMAND_TIMEOUT_S)
        if done.status:
            raise TransientError(
                f"no token for slurmrestd from `{arguments[0]} ...`: it ended with status {done.status} and said "
                f"{one_line(done.errors)}; run it by hand as this user"
            )
        return done.output

    return read


class Tokens:
    """The token to use now. One renewal at a time, however many ask."""

    def __init__(self, source: Source, clock: Clock) -> None:
        self._source = source
        self._clock = clock
        self._token: Token | None = None
        self._proven = False
        self._renewing = asyncio.Lock()

    async def current(self) -> Token:
        """Raises ``TransientError`` or ``ActionRejected`` if there is none that is still good."""
        async with self._renewing:
            now = self._clock.now()
            if self._token is None or now >= self._token.renew_at:
                await self._renew(now)
            assert self._token is not None
            return self._token

    def accepted(self) -> None:
        """slurmrestd has taken the current token."""
        self._proven = True

    def refused(self) -> bool:
        """slurmrestd has not taken it: the next call gets a new one. Whether it had been good before."""
        was_good, self._token, self._proven = self._proven, None, False
        return was_good

    async def _renew(self, now: float) -> None:
        try:
            token = parse(await self._source(), now)
            if token.expires_at <= now:
                raise TransientError(
                    f"the token for slurmrestd expired {now - token.expires_at:.0f} s ago; see that what writes it "
                    "(transport.token_file or token_command of the pool) still runs, and that this machine's clock "
                    "agrees with the controller's"
                )
        except ActuatorError as error:
            if self._token is None or now >= self._token.expires_at:
                raise
            log.warning("slurm_token_not_renewed", left_s=round(self._token.expires_at - now), problem=str(error))
            return
        self._token = token
        log.debug("slurm_token_renewed", user=token.user, life_s=round(token.expires_at - now))


def parse(text: str, now: float) -> Token:
    """Raises ``ActionRejected``, without a word of the text."""
    if not (match := _JWT.fullmatch(text.strip())):
        raise ActionRejected(
            "what was given as the token for slurmrestd is none: a JSON web token of three parts is expected, as "
            "`scontrol token` prints it"
        )
    try:
        claims = json.loads(base64.urlsafe_b64decode(match[2] + "=" * (-len(match[2]) % 4)))
        expires_at = float(claims.get("exp", now + UNTOLD_LIFE_S))
        issued_at = float(claims.get("iat", now))
        user = claims.get("sun") or claims.get("username")
    except (binascii.Error, ValueError, TypeError, AttributeError):
        raise ActionRejected("the token for slurmrestd cannot be read: its second part is not JSON") from None
    return Token(match[1], str(user) if user else None, min(issued_at, expires_at), expires_at)
