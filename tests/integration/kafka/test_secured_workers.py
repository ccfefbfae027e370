"""Workers where Kafka wants to know who comes, and lets nobody listen: Faust has words of its own for that."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from cli.output import Exit
from tests.integration.kafka.measured_site import MODELS, PARTITIONS, Site, opened, telling
from tests.integration.kafka.sites import (
    DELETE,
    DESCRIBE,
    DESCRIBE_CONFIGS,
    GROUP,
    READ,
    TOPIC,
    TRANSACTIONAL_ID,
    WRITE,
    allow,
    worker,
)  # fmt: skip
from tests.support.command_line import run
from tests.support.real_kafka import GUEST, GUEST_PASSWORD, PASSWORD, USER, Listener, RealKafka
from tests.support.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

SECURED: dict[str, tuple[Listener, str | None, str, str]] = {
    "TLS": (Listener.TLS, None, "", ""),
    "PLAIN over TLS": (Listener.SASL_TLS, "PLAIN", USER, PASSWORD),
    "SCRAM over TLS": (Listener.SASL_TLS, "SCRAM-SHA-512", USER, PASSWORD),
    "SCRAM in the clear, with the rights that docs/kafka.md names": (
        Listener.SASL, "SCRAM-SHA-256", GUEST, GUEST_PASSWORD,
    ),
}  # fmt: skip
REPEATED = ("TLS", "PLAIN over TLS")


@pytest.fixture
async def site(secured: RealKafka, kafka_cluster: str, tmp_path: Path) -> Site:
    return await opened(secured, kafka_cluster, tmp_path)


def secure(site: Site, kafka: RealKafka, listener: Listener, mechanism: str | None, user: str) -> None:
    """Have the site's file name the listener, and what it asks for."""
    log: dict[str, Any] = {"kind": "kafka", "bootstrap_servers": kafka.servers(listener), "partitions": PARTITIONS}
    if listener in (Listener.TLS, Listener.SASL_TLS):
        log["tls"] = {"ca_file": str(kafka.authority)}
    if mechanism is not None:
        log["sasl"] = {"user": user, "mechanism": mechanism}
    cluster = site.layout.prefix.removeprefix("tidegate.")
    pools = {"local": {"kind": "local", "gpus": 8}}
    (site.folder / "site.yaml").write_text(json.dumps({"cluster": cluster, "pools": pools, "log": log}))


def give_rights(kafka: RealKafka, prefix: str) -> None:
    """Those that docs/kafka.md names, to the guest."""
    allow(kafka, TOPIC, f"{prefix}.", READ, WRITE, DELETE, DESCRIBE, DESCRIBE_CONFIGS)
    allow(kafka, GROUP, f"{prefix}.", READ)
    allow(kafka, TRANSACTIONAL_ID, f"{prefix}.", WRITE)


@pytest.mark.parametrize(
    ("listener", "mechanism", "user", "password"),
    [pytest.param(*way, id=name, marks=[pytest.mark.repeats] * (name in REPEATED)) for name, way in SECURED.items()],
)
async def test_a_worker_owns_windows_by_each_way_in(
    site: Site, secured: RealKafka, listener: Listener, mechanism: str | None, user: str, password: str
) -> None:
    secure(site, secured, listener, mechanism, user)
    await asyncio.to_thread(give_rights, secured, site.layout.prefix)
    async with telling(site) as (told, _):
        with worker(site.folder, environment={"TIDEGATE_KAFKA_PASSWORD": password}) as process:
            await eventually(lambda: told.by.keys() == set(MODELS), "all models are told")
            process.terminate()
            assert process.wait(30) == Exit.OK


async def test_a_worker_with_a_wrong_password_ends_and_says_what_to_change(site: Site, secured: RealKafka) -> None:
    secure(site, secured, Listener.SASL_TLS, "SCRAM-SHA-512", USER)
    environment = {"TIDEGATE_KAFKA_PASSWORD": "wrong"}
    status, _, errors = await asyncio.to_thread(run, "worker", folder=site.folder, environment=environment)
    assert (status, f"refuses user '{USER}'" in errors) == (Exit.FAILED, True), errors
