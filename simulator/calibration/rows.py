"""What is wrong with one row of a file of measurements, told with its place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from broker.model.errors import ConfigError


@contextmanager
def refused_with(path: Path, line: int) -> Iterator[None]:
    """Within it, whatever says that the row cannot be (``ValueError``, pydantic's included) becomes a
    ``ConfigError`` that names the line and, where there is one, the field."""
    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ConfigError(first["msg"], path=str(path), line=line, field=field) from None
    except ValueError as error:
        raise ConfigError(str(error), path=str(path), line=line) from None
