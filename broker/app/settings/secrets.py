"""Tokens, the site's secret and Kafka's password: from the environment, else from files; never shown."""

from __future__ import annotations

import re
import shlex
from itertools import combinations
from pathlib import Path

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from broker.app.settings.kafka import KafkaLog
from broker.app.settings.site import SiteSettings
from broker.model.errors import ConfigError, ConfigErrors

LEAST_CHARACTERS = 16
LARGEST_BYTES = 4096
TOKENS = ("read_token", "operate_token", "gateway_token")
_PREFIX = "TIDEGATE_"
_HOW = "make one with: openssl rand -hex 32"


class Secrets(BaseSettings):
    """``TIDEGATE_READ_TOKEN``, ``TIDEGATE_OPERATE_TOKEN``, ``TIDEGATE_GATEWAY_TOKEN``, ``TIDEGATE_SITE_SECRET``,
    ``TIDEGATE_KAFKA_PASSWORD``.

    ``repr`` and logs show asterisks; ``get_secret_value`` gives the text to the one who needs it.
    """

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True, extra="ignore", env_ignore_empty=True)

    read_token: SecretStr | None = None
    operate_token: SecretStr | None = None
    gateway_token: SecretStr | None = None
    site_secret: SecretStr | None = None
    kafka_password: SecretStr | None = None


def load_secrets(site: SiteSettings) -> Secrets:
    """The environment's secrets, and those of the site's files where the environment has none.

    Raises ``ConfigErrors`` for a file that cannot be read, a secret that is too short or has characters that do not
    travel in a header, and a token that stands for two scopes.
    """
    given = Secrets()
    found: dict[str, SecretStr] = {}
    problems: list[ConfigError] = []
    for name, path in secret_files(site).items():
        secret: SecretStr | None = getattr(given, name)
        try:
            if secret is not None:
                found[name] = _checked(secret.get_secret_value(), None, _PREFIX + name.upper())
            elif path is not None:
                found[name] = _checked(_read(path, name, how_to_make(path)), path, name)
        except ConfigError as problem:
            problems.append(problem)
    try:
        found.update(_kafka_password(site, given))
    except ConfigError as problem:
        problems.append(problem)
    for one, other in combinations([name for name in TOKENS if name in found], 2):
        if found[one] == found[other]:
            problems.append(ConfigError(f"is the same as {one}; each scope needs a token of its own", field=other))
    if problems:
        raise ConfigErrors(problems)
    return given.model_copy(update=found)


def site_secret(secrets: Secrets) -> bytes:
    """Raises ``ConfigError`` if the site has none."""
    if secrets.site_secret is None:
        raise ConfigError(
            "no site secret, from which the replicas' keys derive: set secret_file in site.yaml or "
            "TIDEGATE_SITE_SECRET; make one with: openssl rand -hex 32. `tidegate init DIR` makes a new site with its "
            "secrets"
        )
    return secrets.site_secret.get_secret_value().encode()


def _kafka_password(site: SiteSettings, given: Secrets) -> dict[str, SecretStr]:
    """Made by whoever runs Kafka: nothing is asked of it but to be there."""
    if not isinstance(site.log, KafkaLog) or site.log.sasl is None or given.kafka_password is not None:
        return {}
    path, field = site.log.sasl.password_file, "log.sasl.password_file"
    if path is None:
        return {}
    password = _read(path, field, f"write the password of user {site.log.sasl.user!r} into it")
    if not password:
        raise ConfigError("is empty; write the password into it", path=str(path), field=field)
    return {"kafka_password": SecretStr(password)}


def secret_files(site: SiteSettings) -> dict[str, Path | None]:
    """Where each secret of ours may lie."""
    return {
        "read_token": site.api.read_token_file,
        "operate_token": site.api.operate_token_file,
        "gateway_token": site.api.gateway_token_file,
        "site_secret": site.secret_file,
    }


def how_to_make(path: Path) -> str:
    """The command that makes this secret, for its owner alone, as one types it in the present folder."""
    file = shlex.quote(str(as_seen_here(path)))
    folder = shlex.quote(str(as_seen_here(path.parent)))
    making = "" if path.parent.exists() else f"mkdir -p {folder} && "
    return f"make one with: (umask 077; {making}openssl rand -hex 32 > {file})"


def as_seen_here(path: Path) -> Path:
    """Relative to the present folder where it lies below it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _read(path: Path, name: str, mend: str) -> str:
    try:
        with path.open("rb") as file:
            return file.read(LARGEST_BYTES).decode("ascii").strip()
    except FileNotFoundError:
        raise ConfigError(f"there is no such file; {mend}", path=str(path), field=name) from None
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror or error}", path=str(path), field=name) from None
    except UnicodeDecodeError:
        raise ConfigError(f"is not plain text; {mend}", path=str(path), field=name) from None


def _checked(secret: str, path: Path | None, field: str) -> SecretStr:
    where = str(path) if path is not None else None
    if len(secret) < LEAST_CHARACTERS:
        raise ConfigError(f"is shorter than {LEAST_CHARACTERS} characters; {_HOW}", path=where, field=field)
    if not re.fullmatch(r"[!-~]+", secret):
        raise ConfigError(f"has characters beside ASCII letters, digits and signs; {_HOW}", path=where, field=field)
    return SecretStr(secret)
