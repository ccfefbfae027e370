"""slurmrestd as a ``SlurmClient``.

Over httpx, not aiohttp, which holds to the letter of HTTP and then has no answer at all: seen were a status line sent
twice, the second behind the body (26.05, to each submission that it refuses), and "Connection: close" behind the body
(22.05, to a request that says so).
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import structlog

from actuators.slurm.client import SiteFacts, SubmitUnclear
from actuators.slurm.commands import skew_s
from actuators.slurm.job import COMMENT_MARK, JobRecord, JobSpec
from actuators.slurm.listing import MALFORMED, readable
from actuators.slurm.refusals import call_refused, submit_refused
from actuators.slurm.rest.answers import Answer
from actuators.slurm.rest.family import Family, Json
from actuators.slurm.rest.parsers import PARSERS, family_of
from actuators.slurm.rest.stream import MOST_HELD, ListReader
from actuators.slurm.rest.tokens import Tokens
from actuators.slurm.states import state_of
from actuators.slurm.texts import moment
from broker.model.errors import ActionRejected, ActuatorError, TransientError, shown
from broker.model.ports import Clock

log = structlog.get_logger(__name__)

TIMEOUT_S = 30.0
MOST_NAMED = 2000
"""Jobs of one question for their states; 4,000 were answered, and httpx sends no more than 64 KiB of them."""
_TOKEN = "X-SLURM-USER-TOKEN"
_PLAIN = re.compile(r"[A-Za-z0-9_.@+-]+")


class RestClient:
    """At ``url`` (``http://login1:6820``), as ``user``, or as the token's own where that is None.

    ``parser`` is chosen at the first call if it is None: the newest that both sides know. ``transport`` takes the
    place of the network.
    """

    def __init__(
        self,
        url: str,
        tokens: Tokens,
        clock: Clock,
        *,
        user: str | None = None,
        parser: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._url = url.rstrip("/")
        self._tokens = tokens
        self._clock = clock
        self._user = user
        self._given = parser is not None
        self._chosen = None if parser is None else (family_of(parser), parser)
        self._transport = transport
        self._session: httpx.AsyncClient | None = None

    async def submit(self, job: JobSpec) -> int:
        family, parser = await self._spoken()
        try:
            answer = await self._ask("POST", f"/slurm/{parser}/job/submit", body=family.submission(job))
        except _Lost as error:
            raise SubmitUnclear(f"{job.name} may have been submitted or not: {error}", retry_after_s=5.0) from None
        job_id = answer.body.get("job_id")
        if answer.fine and isinstance(job_id, int) and job_id > 0:
            if warnings := answer.body.get("warnings"):
                # 24.11 and later drop a field that they do not know with a warning, and submit the rest of the job.
                log.warning("slurm_submit_warned", name=job.name, job_id=job_id, warnings=str(warnings)[:500])
            return job_id
        if answer.perhaps_unauthorised or (answer.status == 200 and not answer.errors):
            self._tokens.refused()
            raise SubmitUnclear(
                f"{self._where} told no id of {job.name} and no reason ({answer.words}): the job may have been "
                "submitted, or the token was not accepted, which 22.05 does not tell apart",
                retry_after_s=5.0,
            )
        self._check(answer)
        raise submit_refused(answer.words, job, self._where)

    async def jobs(self) -> tuple[JobRecord, ...]:
        family, parser = await self._spoken()
        user = await self._own_user()
        answer, listed = await self._list_own(f"/slurm/{parser}/{family.path('jobs')}", family.listing_query, user)
        self._check(answer)
        if not answer.fine or answer.unchanged:
            raise call_refused(answer.words, "list the jobs", self._where)
        return readable(listed, family.job, _comment_of, self._where)

    async def unchanged(self, jobs: Sequence[JobRecord]) -> bool | None:
        if self._chosen is None or len(jobs) > MOST_NAMED:
            return None
        family, parser = self._chosen
        if not family.tells_states:
            return None
        # Named with commas they are refused by 24.11 and 26.05, and without a name all jobs are told. One that is not
        # there is left out of the answer, so that any number shows whether slurmctld answers.
        listed = {str(job.job_id): (job.state, job.flags) for job in jobs}
        query = {"job_id": list(listed) or ["1"]}
        try:
            answer = await self._ask("GET", f"/slurm/{parser}/{family.path('jobs/state')}", query=query)
        except ActuatorError:
            return None
        told = answer.body.get("jobs")
        if not answer.fine or not isinstance(told, list):
            return None
        try:
            ours = [(str(raw["job_id"]), state_of(raw["state"])) for raw in told if str(raw["job_id"]) in listed]
        except MALFORMED:
            return None
        return all(listed[job_id] == state for job_id, state in ours) and {job_id for job_id, _ in ours} == set(listed)

    async def ended(self, within_s: float) -> tuple[JobRecord, ...]:
        """slurmrestd's accounting is not asked: many sites run it without."""
        return ()

    async def cancel(self, job_id: int) -> None:
        await self._delete(job_id, {}, f"end job {job_id}")

    async def signal(self, job_id: int, name: str) -> None:
        family, _ = await self._spoken()
        await self._delete(job_id, family.signal_query(name), f"signal job {job_id}")

    async def facts(self) -> SiteFacts:
        family, parser = await self._spoken()
        asked_at = self._clock.now()
        state = await self._get(f"/slurm/{parser}/{family.path('diag')}", "tell its state")
        answered_at = self._clock.now()
        partitions = await self._get(f"/slurm/{parser}/{family.path('partitions')}", "list the partitions")
        reservations = await self._get(f"/slurm/{parser}/{family.path('reservations')}", "list the reservations")
        try:
            controller_at = moment(state.body["statistics"]["req_time"])
            return SiteFacts(
                release=state.release,
                transport=f"{self._where}, parser {parser}",
                user=await self._own_user(),
                partitions=tuple(family.partition(raw) for raw in partitions.body["partitions"]),
                reservations=tuple(family.reservation(raw) for raw in reservations.body["reservations"]),
                clock_skew_s=None if controller_at is None else skew_s(controller_at, asked_at, answered_at),
                token_life_s=(await self._tokens.current()).life_s,
            )
        except MALFORMED as error:
            raise TransientError(f"{self._where} shows a site that cannot be read: {error!r}") from None

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.aclose()

    @property
    def _where(self) -> str:
        return f"slurmrestd at {self._url}"

    async def _spoken(self) -> tuple[Family, str]:
        """By asking for a ping of each parser, newest first: a few short answers, where ``/openapi`` is megabytes."""
        if self._chosen is not None:
            return self._chosen
        for parser, family in PARSERS.items():
            answer = await self._ask("GET", f"/slurm/{parser}/{family.path('ping')}")
            if answer.status == 404:
                continue
            if not answer.fine:
                self._check(answer)
                raise call_refused(answer.words, "answer a ping", self._where)
            log.info("slurm_parser_chosen", where=self._where, parser=parser, release=answer.release)
            self._chosen = family, parser
            return self._chosen
        raise ActionRejected(
            f"{self._where} speaks none of the parsers that Tidegate speaks ({', '.join(PARSERS)}): start it with one "
            "of them (slurmrestd -s v0.0.38, or -d v0.0.42), update it, or use Slurm's commands"
        )

    async def _own_user(self) -> str:
        user = self._user or (await self._tokens.current()).user
        if user is None:
            raise ActionRejected("the token for slurmrestd does not say whose it is: give the user's name beside it")
        if not user.isascii():
            raise ActionRejected(f"user {shown(user)} cannot be told to slurmrestd, whose header takes ASCII alone")
        return user

    async def _delete(self, job_id: int, query: Mapping[str, str], what: str) -> None:
        _, parser = await self._spoken()
        answer = await self._ask("DELETE", f"/slurm/{parser}/job/{job_id}", query=query)
        if answer.fine and not answer.numbers - {0}:
            return  # 24.11 says no more of a job that it does not know, either: success both ways
        if answer.job_gone:
            return
        self._check(answer)
        raise call_refused(answer.words, what, self._where)

    async def _get(self, path: str, what: str) -> Answer:
        answer = await self._ask("GET", path)
        self._check(answer)
        if not answer.fine:
            raise call_refused(answer.words, what, self._where)
        return answer

    def _check(self, answer: Answer) -> None:
        """Raises if slurmrestd does not speak the parser, or did not take the token, or, for 22.05, if that may be why
        it failed."""
        if answer.fine:
            self._tokens.accepted()
        elif answer.unknown_address and self._chosen is not None:
            _, parser = self._chosen
            if self._given:
                raise ActionRejected(
                    f"{self._where} does not speak {parser}; mend transport.parser: name another, or none to have it "
                    "chosen"
                )
            self._chosen = None  # it was updated, or another runs there now
            raise TransientError(f"{self._where} does not speak {parser} any more; another parser is chosen next")
        elif answer.unauthorised:
            mend = (
                "see that it is of this cluster, of this user, and not expired, and that the clocks agree (transport)"
            )
            problem = f"{self._where} does not accept the token: {answer.words}; {mend}"
            # One that was good until now has expired, or the key was changed: the next call brings a new one.
            raise TransientError(problem) if self._tokens.refused() else ActionRejected(problem)
        elif answer.perhaps_unauthorised:
            self._tokens.refused()
            raise TransientError(
                f"{self._where} failed without a reason ({answer.words}), as Slurm 22.05 does if slurmctld does not "
                "answer, or does not accept the token: see that it runs; a new token is used next",
                retry_after_s=5.0,
            )

    async def _ask(
        self, method: str, path: str, *, query: Mapping[str, str | list[str]] | None = None, body: Json | None = None
    ) -> Answer:
        headers = await self._headers()
        try:
            async with (
                asyncio.timeout(TIMEOUT_S),
                self._http().stream(
                    method, self._url + path, headers=headers, params=query or None, json=body
                ) as response,
            ):
                return await self._whole(response)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            raise self._failed(error) from None

    async def _whole(self, response: httpx.Response) -> Answer:
        content = bytearray()
        async for piece in response.aiter_bytes():
            content += piece
            if len(content) > MOST_HELD:
                raise _Lost(f"{self._where} answers more than {MOST_HELD} bytes: is it one?", retry_after_s=5.0)
        text = content.decode(errors="replace")
        # A proxy that repeats what it was asked would have it in our log.
        return _answer(response.status_code, text.replace(response.request.headers[_TOKEN], "<token>"))

    async def _list_own(self, path: str, query: Mapping[str, str], user: str) -> tuple[Answer, list[Any]]:
        """A cluster's jobs, of which only ``user``'s are kept. slurmrestd cannot be asked for one user's."""
        headers = await self._headers()
        listed: list[Any] = []
        reader = ListReader("jobs", _wanted(user))
        try:
            async with (
                asyncio.timeout(TIMEOUT_S),
                self._http().stream("GET", self._url + path, headers=headers, params=query) as response,
            ):
                if response.status_code != 200:
                    return await self._whole(response), []
                async for piece in response.aiter_bytes():
                    listed += [raw for raw in reader.feed(piece) if _of(raw, user)]
            listed += [raw for raw in reader.end() if _of(raw, user)]
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            raise self._failed(error) from None
        except (ValueError, RecursionError) as error:
            raise TransientError(f"{self._where} told only a part of the jobs: {error}", retry_after_s=5.0) from None
        return Answer(200, reader.rest), listed

    async def _headers(self) -> dict[str, str]:
        token = await self._tokens.current()
        return {
            "Accept": "application/json",
            "Content-Type": "application/json",
            "X-SLURM-USER-NAME": await self._own_user(),
            _TOKEN: token.text,
        }

    def _http(self) -> httpx.AsyncClient:
        if self._session is None:
            # A connection for each request: on one that slurmrestd is just closing nobody could tell whether a
            # submission had been read.
            limits = httpx.Limits(max_keepalive_connections=0)
            self._session = httpx.AsyncClient(
                limits=limits, timeout=TIMEOUT_S, trust_env=False, transport=self._transport
            )
        return self._session

    def _failed(self, error: Exception) -> ActuatorError:
        """Without its cause: httpx's errors carry the request, whose headers hold the token."""
        if isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol):
            return ActionRejected(f"{self._url} is no address of a slurmrestd: http://HOST:PORT is expected")
        said = str(error) or type(error).__name__
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return TransientError(f"{self._where} cannot be reached: {said}; see that it runs", retry_after_s=5.0)
        return _Lost(f"{self._where} did not answer in full: {said}", retry_after_s=5.0)


class _Lost(TransientError):
    """The request was sent, or may have been, and there is no answer that could be read."""


def _answer(status: int, text: str) -> Answer:
    try:
        body = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return Answer(status, {}, text)
    return Answer(status, body if isinstance(body, dict) else {}, text)


def _wanted(user: str) -> dict[str, str]:
    """A job that is ours has one of them: the user's name, if it is written alike by whatever writes JSON, or, if
    slurmrestd does not know it, the mark."""
    return {"user_name": f'"{user}"' if _PLAIN.fullmatch(user) else "", "comment": f'"{COMMENT_MARK}'}


def _of(raw: Any, user: str) -> bool:
    """Also what does not say whose it is: it may be ours, and is looked at."""
    return not isinstance(raw, dict) or raw.get("user_name") in (user, "", None)


def _comment_of(raw: Any) -> str | None:
    return str(raw["comment"]) if isinstance(raw, dict) and raw.get("comment") is not None else None
