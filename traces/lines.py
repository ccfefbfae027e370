"""A file as numbered lines, plain or gzip, in constant memory; whatever goes wrong is a ``TraceError``."""

from __future__ import annotations

import gzip
import io
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path

from broker.model.errors import TraceError

LONGEST_LINE_BYTES = 1 << 20
"""Rows of the known formats stay under 10 kB; without a limit a file of no line breaks would fill the memory."""

_GZIP_MAGIC = b"\x1f\x8b"


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(line number from 1, line without its break). Compression is recognised by content, not by name.

    Raises ``TraceError`` for anything that cannot be read as a file of lines.
    """
    number = 0
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise TraceError("not a regular file; give the path of a trace file, plain or .gz", path=str(path))
        with path.open("rb") as plain, _uncompressed(plain) as source:
            while line := source.readline(LONGEST_LINE_BYTES + 1):
                number += 1
                if len(line) > LONGEST_LINE_BYTES:
                    raise TraceError("longer than 1 MiB, so this is no trace", path=str(path), line=number)
                yield number, line.rstrip(b"\r\n")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise TraceError(
            f"the compressed data is cut off or damaged ({error}); fetch the file again",
            path=str(path),
            line=number + 1,
        ) from None
    except FileNotFoundError:
        raise TraceError("no such file", path=str(path)) from None
    except PermissionError:
        raise TraceError("this user may not read the file; check its permissions", path=str(path)) from None
    except OSError as error:
        raise TraceError(f"cannot be read: {error.strerror or error}", path=str(path)) from None


def _uncompressed(plain: io.BufferedReader) -> io.BufferedReader:
    if plain.peek(2)[:2] != _GZIP_MAGIC:
        return plain
    return io.BufferedReader(gzip.GzipFile(fileobj=plain), 1 << 16)
