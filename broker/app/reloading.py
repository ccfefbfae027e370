"""Hot reload: changed files become a ``SpecChanged`` observation; files with errors change nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

import structlog

from broker.app.runtime import Runtime
from broker.app.settings import SiteSettings, load_policies, spec_changed
from broker.model.errors import ConfigError
from broker.model.replica import ENDED
from broker.model.spec import ModelSpec
from broker.model.state import BrokerState

logger = structlog.get_logger("broker")

LOOK_INTERVAL_S = 1.0

_Stamp = tuple[int, ...] | None


async def watch_files(policies: Path, site: SiteSettings, runtime: Runtime, in_force: str) -> None:
    """For ever. ``policies.yaml`` is hot; ``site.yaml`` takes effect at the next start. ``in_force`` is the digest of
    what the runtime was given last.

    A file is read when it has not changed between two looks: one that is half written could be valid, and a model
    that is missing from it would be drained.
    """
    seen: _Stamp = None
    read: _Stamp = None
    while True:
        await runtime.clock.sleep_until(runtime.clock.now() + LOOK_INTERVAL_S)
        seen, before = _stamp(policies), seen
        if seen != before or seen == read:
            continue
        read = seen
        try:
            models = await asyncio.to_thread(read_again, policies, site)
        except ConfigError as error:
            logger.error("policies_not_reloaded", problem=str(error), action="the policies in force stay")
            continue
        changed = spec_changed(site.spec, models, runtime.clock.now())
        if changed.digest != in_force:
            in_force = changed.digest
            warn_of_removed(runtime.core.loop.state, models)
            runtime.offer(changed)
            logger.info("policies_reloaded", digest=changed.digest[:12], models=len(models))


def policies_by_now(
    policies: Path, site: SiteSettings, read_before: tuple[ModelSpec, ...], restored: BrokerState
) -> tuple[ModelSpec, ...]:
    """What a broker begins with that may have stood by for days since it first read the file: acting by what it read
    then, one drained a healthy model that had been added meanwhile. If the file has errors by now, what the last
    leader had in force."""
    try:
        return read_again(policies, site)
    except ConfigError as error:
        logger.error("policies_not_reloaded", problem=str(error), action="the policies in force stay")
    if restored.control.site is None:
        return read_before
    return tuple(model.spec for model in restored.models.values() if not model.retired)


def warn_of_removed(state: BrokerState, models: Iterable[ModelSpec]) -> None:
    """Say how many replicas the models leave behind that are not declared any more: an empty file may be a mistake."""
    removed = state.models.keys() - {model.model_id for model in models}
    replicas = {
        model_id: sum(replica.phase not in ENDED for replica in state.replicas_of(model_id).values())
        for model_id in sorted(removed)
    }
    if any(replicas.values()):
        logger.warning("models_removed", replicas=replicas, action="all of these are drained and stopped")


def read_again(policies: Path, site: SiteSettings) -> tuple[ModelSpec, ...]:
    """Raises ``ConfigError``. Opening a named pipe would wait for its writer: nothing would be read again, nor would
    the broker end when it is told to."""
    if policies.exists() and not policies.is_file():
        raise ConfigError("is no regular file", path=str(policies))
    return load_policies(policies, site)


def _stamp(policies: Path) -> _Stamp:
    """What tells one state of the file from another; empty while it cannot be seen."""
    try:
        status = policies.stat()
    except OSError:
        return ()
    return status.st_ino, status.st_mtime_ns, status.st_size
