from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import httpx
import pytest
from structlog.testing import capture_logs

from actuators.slurm.job import JobSpec
from actuators.slurm.rest.client import RestClient
from actuators.slurm.rest.tokens import Tokens, from_command, from_file, parse
from actuators.slurm.runner import Finished
from broker.model.errors import ActionRejected, TransientError
from tests.support.fake_runner import FakeRunner
from tests.support.fake_slurmrestd import NOW, FakeSlurmrestd, FixedClock, jwt
from tests.support.shared_data import shared_path


class Issuer:
    """Gives a new token of ``life_s`` whenever it is asked, unless ``away``."""

    def __init__(self, clock: FixedClock, life_s: float = 1800.0) -> None:
        self.clock = clock
        self.life_s = life_s
        self.away = False
        self.given: list[str] = []

    async def __call__(self) -> str:
        await asyncio.sleep(0)
        if self.away:
            raise TransientError("nobody issues tokens")
        self.given.append(jwt(self.clock.at, self.clock.at + self.life_s))
        return f"SLURM_JWT={self.given[-1]}\n"


async def test_a_token_is_kept_until_a_while_before_its_expiry_and_then_renewed() -> None:
    clock = FixedClock()
    issuer = Issuer(clock)
    tokens = Tokens(issuer, clock)
    first = (await tokens.current()).text
    clock.at = NOW + 1499.0
    assert (await tokens.current()).text == first
    clock.at = NOW + 1500.0
    assert (await tokens.current()).text == issuer.given[1]


async def test_a_short_token_is_renewed_when_a_quarter_of_its_life_is_left() -> None:
    clock = FixedClock()
    issuer = Issuer(clock, life_s=60.0)
    tokens = Tokens(issuer, clock)
    await tokens.current()
    clock.at = NOW + 45.0
    await tokens.current()
    assert len(issuer.given) == 2


async def test_many_who_ask_at_once_make_one_renewal() -> None:
    clock = FixedClock()
    issuer = Issuer(clock)
    tokens = Tokens(issuer, clock)
    await asyncio.gather(*(tokens.current() for _ in range(10)))
    assert len(issuer.given) == 1


async def test_while_none_is_to_be_had_the_old_token_is_used_to_its_end() -> None:
    clock = FixedClock()
    issuer = Issuer(clock)
    tokens = Tokens(issuer, clock)
    first = await tokens.current()
    issuer.away = True
    clock.at = NOW + 1799.0
    with capture_logs() as logged:
        assert await tokens.current() == first
    assert [entry["event"] for entry in logged] == ["slurm_token_not_renewed"]
    clock.at = NOW + 1800.0
    with pytest.raises(TransientError, match="nobody issues tokens"):
        await tokens.current()


async def test_a_token_that_has_expired_already_is_told_with_what_to_look_at() -> None:
    clock = FixedClock()
    tokens = Tokens(Issuer(clock, life_s=-30.0), clock)
    with pytest.raises(TransientError, match=r"expired 30 s ago.*clock"):
        await tokens.current()


@pytest.mark.parametrize("text", ["", "SLURM_JWT=", "no token", "a.!!!.c", "e30", "a.bm90LWpzb24.c"])
def test_what_is_no_token_is_refused_without_a_word_of_it(text: str) -> None:
    with pytest.raises(ActionRejected) as refused:
        parse(text, NOW)
    assert not text or text not in str(refused.value)


def test_a_token_tells_whose_it_is_and_does_not_show_itself() -> None:
    token = parse(jwt(user="tide"), NOW)
    assert token.user == "tide"
    assert token.text not in repr(token)


async def test_a_file_is_read_again_when_its_token_is_due(tmp_path: Path) -> None:
    clock, path = FixedClock(), tmp_path / "token"
    tokens = Tokens(from_file(path), clock)
    with pytest.raises(TransientError, match="scontrol token"):
        await tokens.current()
    path.write_text(jwt(), encoding="ascii")
    await tokens.current()
    path.write_text(jwt(expires_at=NOW + 9000.0), encoding="ascii")
    clock.at = NOW + 1700.0
    assert (await tokens.current()).expires_at == NOW + 9000.0


async def test_a_command_that_fails_is_told_by_its_words() -> None:
    runner = FakeRunner({"scontrol": Finished(1, "", "scontrol: error: munge is not running\n")})
    with pytest.raises(TransientError, match="munge is not running"):
        await Tokens(from_command(runner), FixedClock()).current()


async def test_a_token_that_was_good_and_is_refused_is_replaced_and_one_that_never_was_is_rejected() -> None:
    folder = shared_path("slurm/recordings") / "26.05.5-v0.0.45"
    clock = FixedClock()
    issuer = Issuer(clock)
    server = FakeSlurmrestd(folder)
    client = RestClient("http://login1:6820", Tokens(issuer, clock), clock, parser="v0.0.45", transport=server)
    await client.jobs()
    server.answers["jobs"] = "err-expired-token"
    with pytest.raises(TransientError, match="does not accept the token"):
        await client.jobs()
    with pytest.raises(ActionRejected, match="does not accept the token"):
        await client.jobs()
    del server.answers["jobs"]
    await client.jobs()
    assert len(issuer.given) == 3
    await client.close()


@pytest.mark.parametrize("failure", ["err-bad-token", "err-no-token", "err-bad-partition"])
async def test_a_token_is_in_no_log_line_and_in_no_error(failure: str, caplog: pytest.LogCaptureFixture) -> None:
    """At the most talkative level of all libraries, errors' causes and contexts included."""
    folder = shared_path("slurm/recordings") / "22.05.8-v0.0.38"
    clock = FixedClock()
    issuer = Issuer(clock)
    caplog.set_level(logging.DEBUG)
    errors: list[BaseException] = []
    job = JobSpec("tg-a", "tidegate:", "#!/bin/sh\n", "gpu", 60.0, "/dev/null", "/tmp")
    lost = httpx.ReadError("lost", request=httpx.Request("GET", "http://login1:6820"))
    with capture_logs() as logged:
        for answer in (failure, lost, httpx.Response(200, text="{"), httpx.ConnectError("refused")):
            server = FakeSlurmrestd(folder, jobs=answer, submit=answer, delete=answer)
            client = RestClient("http://login1:6820", Tokens(issuer, clock), clock, transport=server)
            for call in (client.jobs(), client.submit(job), client.cancel(1)):
                try:
                    await call
                except Exception as error:
                    errors.append(error)
            await client.close()
    assert len(errors) >= 10
    told = [repr(error) + str(error) + repr(error.__cause__) for error in errors]
    assert all(error.__cause__ is None for error in errors)
    everything = "\n".join([*told, *map(repr, logged), caplog.text])
    assert len(issuer.given) >= 4
    for token in issuer.given:
        assert token not in everything
        assert token.rpartition(".")[0] not in everything
