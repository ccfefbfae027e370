"""What a gateway refuses to start with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from broker.model.errors import ConfigError
from gateway.settings import SECRET_VARIABLE, GatewaySettings, ProxyLimits, secret_from

PLAIN: dict[str, Any] = {"broker_url": "http://127.0.0.1:8600", "token": "t", "site_secret": b"s"}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        pytest.param({"broker_url": "127.0.0.1:8600"}, "broker_url", id="address without http"),
        pytest.param({"token": ""}, "token", id="no token"),
        pytest.param({"site_secret": b""}, "site_secret", id="no secret"),
        pytest.param({"host": "0.0.0.0"}, "keys_file", id="open to the network"),
        pytest.param({"host": "example.org"}, "keys_file", id="open by name"),
        pytest.param({"limits": ProxyLimits(attempts=0)}, "limits.attempts", id="no attempts"),
    ],
)
def test_what_cannot_work_or_is_not_safe_is_refused(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        GatewaySettings(**PLAIN | changes)
    assert caught.value.field == field


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_loopback_may_be_open(host: str) -> None:
    assert GatewaySettings(**PLAIN, host=host).host == host


def test_with_keys_it_may_listen_anywhere() -> None:
    assert GatewaySettings(**PLAIN, host="0.0.0.0", keys_file=Path("keys")).host == "0.0.0.0"


def test_the_secret_comes_from_its_file_or_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("from file\n")
    environment = {SECRET_VARIABLE: "from environment"}
    assert secret_from(environment, file) == b"from file"
    assert secret_from(environment, None) == b"from environment"
    with pytest.raises(ConfigError, match="nowhere"):
        secret_from(environment, tmp_path / "nowhere")


def test_a_gateway_without_a_name_is_called_by_its_place() -> None:
    assert GatewaySettings(**PLAIN, port=1234).name.endswith("-1234")
    assert GatewaySettings(**PLAIN, gateway_id="gw").name == "gw"
