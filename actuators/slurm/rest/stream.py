"""A long JSON answer read in pieces, so that a cluster's 30,000 jobs do not stand in memory at once. Pure.

Own code over a library: the answer's shape is known (one object, one long list in it), and the standard library's
scanner does the work; no event parser is among the dependencies.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

_SPACE = " \t\r\n"
BLOCK = 2**20
"""One long search is several times as fast as many short ones."""
MOST_HELD = 64 * 2**20
"""Bytes of what is no long list, or of one element: whoever answers more is no slurmrestd."""
_DEEPEST = 40
"""Characters of indentation."""
_ALL = {"": ""}
_OPENING = re.compile(r'\{\n *"[^"\\\n]*":')


class ListReader:
    """Feed it the answer's bytes; it yields the elements of the list ``name`` as they are complete. ``rest`` is the
    answer's other fields. What is not JSON raises ``ValueError`` at the latest from ``end``, or ``RecursionError``.

    Where the elements are objects on lines of their own, as slurmrestd writes them, those in which no field begins as
    ``wanted`` says (its name, and the beginning of its value as JSON) may be passed over unread. One is told from the
    next by how the first one opens, down to the name of its first field, as the elements of no other list in the answer
    do. ``block`` is how many bytes are looked through together."""

    def __init__(self, name: str, wanted: Mapping[str, str] = _ALL, block: int = BLOCK) -> None:
        self.rest: dict[str, Any] = {}
        self._name = name
        self._block = block
        self._wanted = wanted
        self._words: list[bytes] = []
        self._decoder = json.JSONDecoder(strict=False)
        self._bytes = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._opening = b""
        self._unsieved: list[bytes] = []
        self._unsieved_bytes = 0
        self._text = ""
        self._enough = 0
        self._inside: bool | None = None
        self._listed = False
        self._ended = False

    def feed(self, piece: bytes) -> Iterator[Any]:
        self._unsieved.append(piece)
        self._unsieved_bytes += len(piece)
        if self._unsieved_bytes >= self._block:
            wanted, rest = self._sieved(b"".join(self._unsieved))
            self._unsieved, self._unsieved_bytes = [rest], 0
            yield from self._read(wanted)
            if len(self._text) + len(rest) > MOST_HELD:
                raise ValueError(f"the answer has {MOST_HELD} bytes without the end of an element of {self._name!r}")

    def end(self) -> Iterator[Any]:
        """The last elements, once all pieces were fed. Raises ``ValueError`` if the answer was cut or is no object."""
        self._enough = 0
        yield from self._read(b"".join(self._unsieved))
        if not self._ended or not self._listed:
            raise ValueError(f"the answer is no object with a list {self._name!r}, or was cut")

    def _sieved(self, block: bytes) -> tuple[bytes, bytes]:
        """What of ``block`` is to be read, and from its last element on what is to be looked at with more behind it."""
        if not self._opening:
            return block, b""
        at, last = block.find(self._opening), block.rfind(self._opening)
        if last < 0:
            return b"", block
        wanted = [block[:at]]
        words_at = dict.fromkeys(self._words, -1)
        while at < last:
            for word in [word for word, word_at in words_at.items() if word_at < at]:
                found = block.find(word, at, last)
                words_at[word] = found if found >= 0 else last
            word_at = min(words_at.values())
            if word_at == last:
                break
            begin = max(at, block.rfind(self._opening, at, word_at))
            at = block.find(self._opening, word_at + 1)
            wanted.append(block[begin:at])
        return b"".join(wanted), block[last:]

    def _read(self, piece: bytes) -> Iterator[Any]:
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
            element, end = self._decoder.raw_decode(self._text, at)
            self._text[end]  # a number may go on in the next piece
            if not self._opening:
                self._opening = self._opening_at(at)
                self._words = [self._spelled(field, value, at, end).encode() for field, value in self._wanted.items()]
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

    def _opening_at(self, at: int) -> bytes:
        """How the object at ``at`` opens, with the indentation before it; nothing if it is on no lines of its own. What
        is in it is indented further, and a string holds no bare line end."""
        line = self._text.rfind("\n", max(0, at - _DEEPEST), at)
        found = _OPENING.match(self._text, at)
        if found is None or line < 0 or at - line < 2 or self._text[line:at].strip():
            return b""
        return self._text[line : found.end()].encode()

    def _spelled(self, field: str, value: str, at: int, end: int) -> str:
        """``value`` behind its field's name as the object there spells it: the longer a word, the faster its search."""
        found = re.compile(rf'"{re.escape(field)}"[ ]*:[ ]*(?=")').search(self._text, at, end)
        return value if found is None or not value else found[0] + value

    def _skip(self, at: int, characters: str) -> int:
        while self._text[at] in characters:
            at += 1
        return at
