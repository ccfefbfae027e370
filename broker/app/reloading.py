"""Hot reload: changed files become a ``SpecChanged`` observation; files with errors change nothing."""

from __future__ import annotations

from pathlib import Path

import structlog

from broker.app.runtime import Runtime
from broker.app.settings import SiteSettings, load_policies, spec_changed
from broker.model.errors import ConfigError

logger = structlog.get_logger("broker")

_LOOK_INTERVAL_S = 1.0


async def watch_files(policies: Path, site: SiteSettings, runtime: Runtime) -> None:
    """For ever. ``policies.yaml`` is hot; ``site.yaml`` takes effect at the next start."""
    last = _stamp(policies)
    while True:
        await runtime.clock.sleep_until(runtime.clock.now() + _LOOK_INTERVAL_S)
        stamp = _stamp(policies)
        if stamp == last:
            continue
        last = stamp
        try:
            models = load_policies(policies, site)
        except ConfigError as error:
            logger.error("policies_not_reloaded", problem=str(error), action="the policies in force stay")
            continue
        changed = spec_changed(site.spec, models, runtime.clock.now())
        if changed.digest != runtime.core.loop.state.control.digest:
            runtime.offer(changed)
            logger.info("policies_reloaded", digest=changed.digest[:12], models=len(models))


def _stamp(policies: Path) -> tuple[int, int] | None:
    """When the file last changed, and its size; None while it cannot be seen (an editor replacing it)."""
    try:
        status = policies.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
