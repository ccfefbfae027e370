"""Asks a replica who it is: does it serve this model, under this key, and only under it?

A port that answers proves nothing: another user's server may sit there, or yesterday's replica with another model.
Before a replica is published it must list its model to the holder of its key, and refuse everybody else.
"""

from __future__ import annotations

from dataclasses import dataclass

import aiohttp

from broker.model.observation import Probe, ProbeVerdict
from broker.model.ports import Clock

TIMEOUT_S = 5.0
_ANSWER_LIMIT_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class ProbeTarget:
    """A replica to look at. ``thorough`` also checks that it refuses a stranger: done until it is first published."""

    replica_id: str
    model_id: str
    url: str
    key: str
    thorough: bool


class Prober:
    """One look at one replica at a time; the caller decides when and how many at once."""

    def __init__(self, session: aiohttp.ClientSession, clock: Clock) -> None:
        self._session = session
        self._clock = clock
        self._timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)

    async def look(self, target: ProbeTarget) -> Probe:
        """Never raises for what the replica does: that is the verdict."""
        verdict, detail = await self._judge(target)
        now = self._clock.now()
        return Probe(target.replica_id, target.model_id, verdict, now, now, detail)

    async def _judge(self, target: ProbeTarget) -> tuple[ProbeVerdict, str]:
        try:
            status, served = await self._models(target.url, target.key)
            if status in (401, 403):
                return ProbeVerdict.WRONG, "it refuses the key of this replica"
            if status >= 500:
                return ProbeVerdict.LOADING, f"/v1/models answers {status}"
            if status != 200 or served is None:
                return ProbeVerdict.WRONG, f"/v1/models answers {status} and no list of models"
            if target.model_id not in served:
                return ProbeVerdict.WRONG, f"it serves {', '.join(served) or 'nothing'}, not {target.model_id}"
            if target.thorough:
                status, _ = await self._models(target.url, "not-" + target.key)
                if status not in (401, 403):
                    return ProbeVerdict.WRONG, "it answers without its key"
        except TimeoutError:
            return ProbeVerdict.UNREACHABLE, "no answer in time"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return ProbeVerdict.UNREACHABLE, str(error) or type(error).__name__
        return ProbeVerdict.READY, ""

    async def _models(self, url: str, key: str) -> tuple[int, list[str] | None]:
        """(status, ids of the models listed); None where the answer is no such list."""
        headers = {"Authorization": f"Bearer {key}"}
        async with self._session.get(
            f"{url}/v1/models", headers=headers, timeout=self._timeout, allow_redirects=False
        ) as response:
            if response.status != 200:
                return response.status, None
            if (response.content_length or 0) > _ANSWER_LIMIT_BYTES:
                return response.status, None
            try:
                body = await response.json(content_type=None)
                return response.status, [str(model["id"]) for model in body["data"]]
            except (ValueError, TypeError, KeyError):
                return response.status, None
