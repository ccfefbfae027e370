"""Secrets come by environment or file, and are never shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.app.settings import SiteSettings, load_secrets
from broker.model.errors import ConfigErrors
from tests.unit.settings.files import site_of_data, written

TOKEN = "0123456789abcdef" * 2


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("READ_TOKEN", "OPERATE_TOKEN", "GATEWAY_TOKEN", "SITE_SECRET", "KAFKA_PASSWORD"):
        monkeypatch.delenv(f"TIDEGATE_{name}", raising=False)


def site_with(path: Path) -> SiteSettings:
    return site_of_data(secret_file=str(path))


def test_without_any_there_are_none() -> None:
    secrets = load_secrets(site_of_data())
    assert secrets.site_secret is None
    assert secrets.read_token is None


def test_a_file_gives_its_text_without_the_line_end(tmp_path: Path) -> None:
    secret = load_secrets(site_with(written(tmp_path, TOKEN + "\n", "secret"))).site_secret
    assert secret is not None
    assert secret.get_secret_value() == TOKEN


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_SITE_SECRET", "e" * 32)
    secret = load_secrets(site_with(tmp_path / "none")).site_secret
    assert secret is not None
    assert secret.get_secret_value() == "e" * 32


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_READ_TOKEN", "")
    assert load_secrets(site_of_data()).read_token is None


def test_no_secret_is_ever_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_READ_TOKEN", "r" * 32)
    secrets = load_secrets(site_with(written(tmp_path, TOKEN, "secret")))
    for shown in (repr(secrets), str(secrets), repr(secrets.model_dump()), secrets.model_dump_json()):
        assert TOKEN not in shown
        assert "r" * 32 not in shown


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(b"tiny", "is shorter than 16 characters; make one with: openssl", id="short"),
        pytest.param(b"", "is shorter than 16 characters", id="empty"),
        pytest.param(b"two words that are long enough", "has characters beside", id="spaces"),
        pytest.param("schlüssel-mit-umlaut".encode(), "is not plain text", id="beyond ASCII"),
    ],
)
def test_a_secret_that_cannot_serve_is_refused_without_showing_it(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "secret"
    path.write_bytes(content)
    with pytest.raises(ConfigErrors) as caught:
        load_secrets(site_with(path))
    assert str(caught.value).startswith(f"{path}: site_secret: {words}")
    assert content == b"" or content.decode() not in str(caught.value)


def test_all_files_that_are_missing_are_told(tmp_path: Path) -> None:
    site = site_of_data(secret_file=str(tmp_path / "a"), api={"read_token_file": str(tmp_path)})
    with pytest.raises(ConfigErrors) as caught:
        load_secrets(site)
    read, secret = caught.value.problems
    assert (read.field, read.problem) == ("read_token", "cannot be read: Is a directory")
    command = f"(umask 077; openssl rand -hex 32 > {tmp_path / 'a'})"
    assert secret.problem == f"there is no such file; make one with: {command}"


def test_the_command_that_makes_a_secret_makes_its_folder_and_is_typed_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = site_with(tmp_path / "secrets" / "read")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigErrors) as caught:
        load_secrets(site)
    command = caught.value.problems[0].problem.partition("make one with: ")[2]
    assert command == "(umask 077; mkdir -p secrets && openssl rand -hex 32 > secrets/read)"


def test_one_token_cannot_stand_for_two_scopes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_READ_TOKEN", TOKEN)
    monkeypatch.setenv("TIDEGATE_OPERATE_TOKEN", TOKEN)
    with pytest.raises(ConfigErrors, match="operate_token: is the same as read_token"):
        load_secrets(site_of_data())
