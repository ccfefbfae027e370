"""Server-sent events, twice: reading the broker's, and watching an engine's stream go by. Pure.

``StreamWatch`` sees every chunk of every stream (9,000 a second), so it searches bytes and parses no JSON. That is
sound because a quotation mark inside a JSON string is always written ``\\"``: the byte sequences it looks for can
only be keys, values or framing, never a user's or model's text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from broker.model.errors import WireError

ENGINE_ABORTED = "the engine aborted the request"
ENGINE_ERROR = "the engine reported an error"
WITHOUT_DONE = "the engine ended the stream without [DONE]"

EVENT_BYTES = 64 * 1024 * 1024
"""A snapshot of 10,000 endpoints is 3 MB."""

_CARRY_LIMIT = 256 * 1024
_ABORT = re.compile(rb'"finish_reason"\s*:\s*"abort"')
_ERROR = re.compile(rb'(?:\A|\n)data:\s*\{\s*"(?:error"|object"\s*:\s*"error")')
_DONE = re.compile(rb"(?:\A|\n)data:\s*\[DONE\]")
_USAGE = re.compile(rb'"usage"\s*:\s*\{[^}]*')
_PROMPT_TOKENS = re.compile(rb'"prompt_tokens"\s*:\s*(\d{1,15})(?!\d)')
_OUTPUT_TOKENS = re.compile(rb'"completion_tokens"\s*:\s*(\d{1,15})(?!\d)')
# No more digits than a count can have: Python refuses to read 4301 of them.


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the engine counted them."""

    prompt_tokens: int | None = None
    output_tokens: int | None = None


def find_usage(body: bytes) -> Usage:
    """The last ``"usage"`` object in a body or event, empty if there is none."""
    found: list[bytes] = _USAGE.findall(body)
    if not found:
        return Usage()
    prompt, output = _PROMPT_TOKENS.search(found[-1]), _OUTPUT_TOKENS.search(found[-1])
    return Usage(int(prompt[1]) if prompt else None, int(output[1]) if output else None)


def was_aborted(body: bytes) -> bool:
    """Whether a choice in the body says that the engine gave the request up (``finish_reason`` "abort")."""
    return b'"abort"' in body and _ABORT.search(body) is not None


class StreamWatch:
    """What a stream of completions says of itself while it goes by.

    ``done``: ``[DONE]`` was seen. ``fault``: why the stream must count as cut, empty while it need not. ``events``
    counts complete events. ``midway``: the last chunk ended inside an event.
    """

    __slots__ = ("_carry", "_usage_window", "done", "events", "fault")

    def __init__(self) -> None:
        self.done = False
        self.fault = ""
        self.events = 0
        self._carry = b""
        self._usage_window = b""

    @property
    def midway(self) -> bool:
        return bool(self._carry)

    @property
    def tokens(self) -> int:
        """About how many tokens came: vLLM sends one event for each, and [DONE]."""
        return max(0, self.events - 1)

    def feed(self, chunk: bytes) -> int:
        """See one chunk; how many of its bytes may go to the user, which is all of them unless ``fault`` is set."""
        carry = self._carry
        window = carry + chunk if carry else chunk
        if b"\r" in window:
            window = window.replace(b"\r\n", b"\n")
        if window.endswith(b"\n\n"):
            self._carry = b""
        else:
            rest = window[window.rfind(b"\n\n") + 2 :] if b"\n\n" in window else window
            self._carry = rest if len(rest) <= _CARRY_LIMIT else b""
        self.events += window.count(b"\n\n")
        if b'"usage"' in window:
            self._usage_window = window
        if b'"abort"' in window and (abort := _ABORT.search(window)):
            self.fault = ENGINE_ABORTED
            begin = window.rfind(b"\n\n", 0, abort.start()) + 2
            return max(0, (begin if begin > 1 else 0) - len(carry))
        if b'"error"' in window and (error := _ERROR.search(window)):
            self.fault = ENGINE_ERROR
            end = window.find(b"\n\n", error.start() + 1)
            return max(0, (len(window) if end < 0 else end + 2) - len(carry))
        if not self.done and b"[DONE]" in window and _DONE.search(window):
            self.done = True
        return len(chunk)

    def usage(self) -> Usage:
        return find_usage(self._usage_window)


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    kind: str
    data: str


class EventReader:
    """Cuts a byte stream into server-sent events (WHATWG HTML, section 9.2), any line ending, comments skipped."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, chunk: bytes) -> Iterator[ServerSentEvent]:
        """The events that ``chunk`` completes. Raises ``WireError`` for one that does not end."""
        *complete, self._buffer = (self._buffer + chunk).replace(b"\r\n", b"\n").split(b"\n\n")
        if len(self._buffer) > EVENT_BYTES:
            raise WireError(f"an event of more than {EVENT_BYTES} bytes")
        for block in complete:
            kind, data = "message", []
            for line in block.decode("utf-8", "replace").split("\n"):
                field, _, value = line.partition(":")
                value = value.removeprefix(" ")
                if field == "event":
                    kind = value
                elif field == "data":
                    data.append(value)
            if data:
                yield ServerSentEvent(kind, "\n".join(data))
