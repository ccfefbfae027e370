"""A long JSON answer read in pieces, so that a cluster's 30,000 jobs do not stand in memory at once. Pure.

Own code over a library: the answer's shape is known (one object, one long list in it), and the standard library's
scanner does the work; no event parser is among the dependencies.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Sequence
from typing import Any

_SPACE = " \t\r\n"
_DEEPEST = 40
"""Characters of indentation."""


class ListReader:
    """Feed it the answer's bytes; it yields the elements of the list ``name`` as they are complete. ``rest`` is the
    answer's other fields. What is not JSON raises ``ValueError`` at the latest from ``end``.

    An object that stands on lines of its own, as slurmrestd writes them, is yielded only if it contains one of
    ``words``, and otherwise passed over unread, at a third of the cost. Any other is yielded."""

    def __init__(self, name: str, words: Sequence[str] = ("",)) -> None:
        self.rest: dict[str, Any] = {}
        self._name = name
        self._words = words
        self._decoder = json.JSONDecoder(strict=False)
        self._bytes = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._text = ""
        self._enough = 0
        self._inside: bool | None = None
        self._listed = False
        self._ended = False

    def feed(self, piece: bytes) -> Iterator[Any]:
        self._text += self._bytes.decode(piece)
        # An element longer than a piece is tried again only once there is half as much again: its cost is its length,
        # not its square.
        if len(self._text) < self._enough:
            return
        at = 0
        while not self._ended:
            try:
                found, at = self._step(at)
            except (json.JSONDecodeError, IndexError):
                break
            yield from found
        self._text = self._text[at:]
        self._enough = len(self._text) * 3 // 2

    def end(self) -> Iterator[Any]:
        """The last elements, once all pieces were fed. Raises ``ValueError`` if the answer was cut or is no object."""
        self._enough = 0
        yield from self.feed(b"")
        if not self._ended or not self._listed:
            raise ValueError(f"the answer is no object with a list {self._name!r}, or was cut")

    def _step(self, at: int) -> tuple[list[Any], int]:
        """One step from ``at``: the elements found and where it ended. Raises ``IndexError`` or ``JSONDecodeError`` if
        the text ends within it."""
        at = self._skip(at, _SPACE if self._inside is None else _SPACE + ",")
        mark = self._text[at]
        if self._inside is None:
            if mark != "{":
                raise json.JSONDecodeError("no object", self._text, at)
            self._inside = False
            return [], at + 1
        if self._inside:
            if mark == "]":
                self._inside = False
                return [], at + 1
            if (end := self._unwanted(at)) is not None:
                return [], end
            element, end = self._decoder.raw_decode(self._text, at)
            self._text[end]  # a number may go on in the next piece
            return [element], end
        if mark == "}":
            self._ended = True
            return [], at + 1
        key, end = self._decoder.raw_decode(self._text, at)
        end = self._skip(end, _SPACE + ":")
        if key == self._name and self._text[end] == "[":
            self._inside = self._listed = True
            return [], end + 1
        value, end = self._decoder.raw_decode(self._text, end)
        self._text[end]
        self.rest[key] = value
        return [], end

    def _unwanted(self, at: int) -> int | None:
        """Where the object at ``at`` ends if it need not be read. Its end is the first line that closes a brace as far
        to the right as the object's begin: a string holds no bare line end. Raises ``IndexError``."""
        if self._text[at] != "{" or self._text[at + 1] != "\n":
            return None
        line = self._text.rfind("\n", max(0, at - _DEEPEST), at)
        margin = self._text[line:at]
        if line < 0 or len(margin) < 2 or margin.strip():
            return None
        end = self._text.find(margin + "}", at)
        if end < 0:
            raise IndexError(at)
        end += len(margin) + 1
        return None if any(self._text.find(word, at, end) >= 0 for word in self._words) else end

    def _skip(self, at: int, characters: str) -> int:
        while self._text[at] in characters:
            at += 1
        return at
