"""A file as chunks of whole lines, plain or gzip, in constant memory; whatever goes wrong is a ``TraceError``."""

from __future__ import annotations

import gzip
import io
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path

from broker.model.errors import TraceError

CHUNK_BYTES = 1 << 20

LONGEST_LINE_BYTES = 1 << 20
"""Rows of the known formats stay under 10 kB; without a limit a file of no line breaks would fill the memory."""

_GZIP_MAGIC = b"\x1f\x8b"


def numbered_chunks(path: Path) -> Iterator[tuple[int, bytes]]:
    """(number from 1 of its first line, some whole lines with their breaks). Compression is recognised by content.

    Raises ``TraceError`` for anything that cannot be read as a file of lines.
    """
    number = 1
    rest = b""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise TraceError("not a regular file; give the path of a trace file, plain or .gz", path=str(path))
        with path.open("rb") as plain, _uncompressed(plain) as source:
            while piece := source.read(CHUNK_BYTES):
                end = piece.rfind(b"\n") + 1
                if not end:
                    rest += piece
                if len(rest) > LONGEST_LINE_BYTES:
                    raise TraceError("longer than 1 MiB, so this is no trace", path=str(path), line=number)
                if end:
                    chunk, rest = rest + piece[:end], piece[end:]
                    yield number, chunk
                    number += chunk.count(b"\n")
            if rest:
                yield number, rest
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise TraceError(
            f"the compressed data is cut off or damaged ({error}); fetch the file again", path=str(path), line=number
        ) from None
    except FileNotFoundError:
        raise TraceError("no such file", path=str(path)) from None
    except PermissionError:
        raise TraceError("this user may not read the file; check its permissions", path=str(path)) from None
    except OSError as error:
        raise TraceError(f"cannot be read: {error.strerror or error}", path=str(path)) from None


def first_line(path: Path) -> bytes | None:
    """The first line without its break, None of an empty file."""
    chunk = next(numbered_chunks(path), (1, b""))[1]
    return chunk.split(b"\n", 1)[0].rstrip(b"\r") if chunk else None


def _uncompressed(plain: io.BufferedReader) -> io.BufferedReader:
    if plain.peek(2)[:2] != _GZIP_MAGIC:
        return plain
    return io.BufferedReader(gzip.GzipFile(fileobj=plain), 1 << 16)
