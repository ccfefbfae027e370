"""Users' keys: how their file is read, and that no message ever shows one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from broker.model.errors import ConfigError
from broker.model.identity import endpoint_key
from broker.model.replica import EndpointRecord, ReplicaPhase, Tier
from gateway.keys import EngineKeys, UserKeys, parse_keys


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def keys_of(path: Path, text: str) -> UserKeys:
    path.write_text(text)
    return UserKeys(path)


def test_plain_and_hashed_keys_are_the_same_to_users(tmp_path: Path) -> None:
    keys = keys_of(tmp_path / "keys", f"# users\nalice one\n\nbob   sha256:{digest('two')}  # rotated\nbob three\n")
    users = [keys.user_of(f"Bearer {key}") for key in ("one", "two", "three", "four", f"sha256:{digest('two')}")]
    assert users == ["alice", "bob", "bob", None, None]
    assert keys.user_of("bearer one") == "alice", "the scheme's case does not matter"
    assert keys.user_of(None) is None


def test_without_a_file_everybody_is_anonymous() -> None:
    assert UserKeys().user_of(None) == "anonymous"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        pytest.param("alice one\nbob\n", 2, "NAME KEY", id="no key"),
        pytest.param("alice secret one\n", 1, "NAME KEY", id="too much"),
        pytest.param("alice sha256:secret\n", 1, "64 hexadecimal", id="bad hash"),
        pytest.param("alice secret\nbob secret\n", 2, "alice", id="shared key"),
    ],
)
def test_a_bad_line_is_named_without_its_key(text: str, line: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        parse_keys(text, "keys")
    assert caught.value.line == line
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("damage", ["alice\n", None], ids=["unreadable", "gone"])
def test_a_file_that_breaks_leaves_the_keys_as_they_were(tmp_path: Path, damage: str | None) -> None:
    path = tmp_path / "keys"
    keys = keys_of(path, "alice one\n")
    if damage is None:
        path.unlink()
    else:
        path.write_text(damage)
    keys.refresh()
    assert keys.user_of("Bearer one") == "alice"
    path.write_text("carol five\n")
    keys.refresh()
    assert [keys.user_of("Bearer one"), keys.user_of("Bearer five")] == [None, "carol"]


def test_each_endpoint_has_its_own_key() -> None:
    record = EndpointRecord("chat-0-g3", "chat", "http://x", ReplicaPhase.READY, 3, Tier.BASELINE, 1)
    assert EngineKeys(b"s").authorization(record) == f"Bearer {endpoint_key(b's', 'chat-0-g3', 3)}"
