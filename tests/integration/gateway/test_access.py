"""Who may use a gateway, that keys never cross it, and what it says of itself."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from broker.model.errors import ConfigError
from gateway.app import Gateway
from gateway.settings import GatewaySettings
from tests.integration.gateway.site import Answer, Site
from tests.support.fake_engine import SITE_SECRET, Way
from tests.support.waiting import eventually, until_answered

pytestmark = pytest.mark.integration

ALICE = {"Authorization": "Bearer alice-key"}


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text("alice alice-key\n")
    return path


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="no key"),
        pytest.param({"Authorization": "Bearer wrong"}, id="wrong key"),
        pytest.param({"Authorization": "Basic alice-key"}, id="wrong scheme"),
        pytest.param({"Authorization": "Bearer "}, id="empty key"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "/metrics"])
async def test_without_a_valid_key_nothing_is_served(
    site: Site, keys_file: Path, headers: dict[str, str], path: str
) -> None:
    await site.start(keys_file=keys_file)
    answer = await (site.get(path, headers) if path != "/v1/chat/completions" else site.ask(headers=headers))
    assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")
    assert not site.engines[0].received


async def test_the_users_key_stays_here_and_the_engines_key_stays_behind(site: Site, keys_file: Path) -> None:
    await site.start(keys_file=keys_file)
    answer = await site.ask(headers=ALICE)
    assert answer.events[-1] == "[DONE]"
    upstream = site.engines[0].received[0]
    assert upstream.headers["Authorization"] == f"Bearer {site.engines[0].key}"
    assert "alice-key" not in str(upstream)
    assert site.engines[0].key not in str(answer)


async def test_a_replica_with_another_key_is_not_blamed_on_the_user(site: Site, keys_file: Path) -> None:
    await site.start(keys_file=keys_file, site_secret=b"another secret")
    assert (await site.ask(headers=ALICE)).status == 502


async def test_keys_are_read_again_when_their_file_changes(site: Site, keys_file: Path) -> None:
    await site.start(keys_file=keys_file)
    replacement = keys_file.with_name("new")
    replacement.write_text(f"bob sha256:{hashlib.sha256(b'bob-key').hexdigest()}\n")
    os.replace(replacement, keys_file)

    async def status(key: str) -> int:
        return (await site.get("/v1/models", {"Authorization": f"Bearer {key}"})).status

    await until_answered(lambda: status("bob-key"), (200).__eq__, "the new key is taken")
    assert await status("alice-key") == 401


async def test_health_tells_of_the_broker_and_needs_no_key(site: Site, keys_file: Path) -> None:
    await site.start(keys_file=keys_file)
    answer = await site.get("/healthz")
    assert (answer.status, b'"broker": "alive"' in answer.body) == (200, True)


async def test_health_names_a_part_that_failed_until_it_runs_again(site: Site) -> None:
    """A gateway that followed no registry any more said ok."""
    await site.start()
    site.gateway.registry._applied = _by_mistake
    site.broker.begin_anew()
    answer = await _health(site, 503)
    assert (answer.status, b'"failing": ["registry"]' in answer.body) == (503, True)
    site.gateway.registry._applied = lambda: None
    await _health(site, 200)


async def _health(site: Site, status: int) -> Answer:
    return await until_answered(lambda: site.get("/healthz"), lambda answer: answer.status == status, "health changes")


def _by_mistake() -> None:
    raise AttributeError("a mistake of ours")


async def test_metrics_are_well_formed_and_tell_what_happened(site: Site) -> None:
    await site.start(models=('odd "name"\\',))
    await site.ask()
    site.engines[0].way = Way.DROP_MIDWAY
    await site.ask()
    await eventually(lambda: len(site.broker.summaries()) > 3)
    text = (await site.get("/metrics")).body.decode()
    samples = {
        (sample.name, sample.labels.get("model", ""), sample.labels.get("outcome", "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "le" not in sample.labels
    }
    assert samples["tidegate_gateway_requests_total", "chat", "finished"] == 1
    assert samples["tidegate_gateway_requests_total", "chat", "failed"] == 1
    assert samples["tidegate_gateway_requests_arrived_total", 'odd "name"\\', ""] == 0
    assert samples["tidegate_gateway_time_to_first_token_seconds_count", "chat", ""] == 2
    assert samples["tidegate_gateway_broker_up", "", ""] == 1


async def test_a_taken_port_is_told_in_words(site: Site) -> None:
    await site.start()
    settings = GatewaySettings(site.broker.url, "token", SITE_SECRET, port=site.gateway.port)
    with pytest.raises(ConfigError, match="choose another port"):
        await Gateway(settings).start()


async def test_a_damaged_keys_file_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("alice\n")
    settings = GatewaySettings("http://127.0.0.1:1", "token", SITE_SECRET, keys_file=path)
    with pytest.raises(ConfigError, match=r"keys:1"):
        Gateway(settings)
