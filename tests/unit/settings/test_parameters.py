"""A sweep names values of a policies file by their path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from broker.app.settings.document import Document
from broker.app.settings.parameters import with_value
from broker.model.errors import ConfigError

DATA = {
    "models": {
        "chat": {"max": 4, "policy": {"rules": [{"name": "queue", "above": 1}, {"signal": "kv_cache_use"}]}},
        "llama-3.1": {"max": 2},
        "llama-3": {"max": 1},
    }
}


def changed(path: str, value: Any = 9) -> Any:
    return with_value(Document(Path("policies.yaml"), DATA), path, value).data


@pytest.mark.parametrize(
    ("path", "value_of"),
    [
        ("models.chat.max", lambda data: data["models"]["chat"]["max"]),
        ("models.chat.policy.rules[queue].above", lambda data: data["models"]["chat"]["policy"]["rules"][0]["above"]),
        ("models.chat.policy.rules[1].above", lambda data: data["models"]["chat"]["policy"]["rules"][1]["above"]),
        ("models.llama-3.1.max", lambda data: data["models"]["llama-3.1"]["max"]),
        ("models.llama-3.min", lambda data: data["models"]["llama-3"]["min"]),
        ("models.chat.stabilisation.scale_in", lambda data: data["models"]["chat"]["stabilisation"]["scale_in"]),
    ],
    ids=["a field", "an item by name", "an item by number", "a dot in a name", "a name in a name", "a new group"],
)
def test_a_path_leads_to_its_value(path: str, value_of: Any) -> None:
    assert value_of(changed(path)) == 9


def test_what_lies_beside_stays_and_the_file_itself_is_not_touched() -> None:
    data = changed("models.chat.policy.rules[queue].above")
    assert data["models"]["chat"]["max"] == 4
    assert data["models"]["chat"]["policy"]["rules"][1] == {"signal": "kv_cache_use"}
    assert DATA["models"]["chat"]["policy"]["rules"][0]["above"] == 1  # type: ignore[index]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("models.chta.max", "there is no model 'chta'; did you mean chat?"),
        ("models.chat.policy.rules[que].above", "has no 'que'; did you mean queue?"),
        ("models.chat.policy.rules[7].above", "has no '7'"),
        ("models.chat.policy.rules.above", "is a list; write rules[queue] or rules[0]"),
        ("models.chat.policy[queue].above", "models.chat.policy is no list"),
        ("models.chat.max.more", "models.chat.max is a plain value"),
        ("models.chat.policy.rules[0]", "must end with the name of a field"),
        ("models.chat.policy.rules[queue", "is never closed"),
        ("models.chat.policy.rules[0]above", "a dot or a [ is expected"),
        ("models..max", "two dots in a row"),
        ("models.", "two dots in a row, or one at an end"),
        ("", "must end with the name of a field"),
    ],
)
def test_a_path_that_leads_nowhere_says_where_it_ends(path: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        changed(path)
    assert words in caught.value.problem
    assert caught.value.field == path
