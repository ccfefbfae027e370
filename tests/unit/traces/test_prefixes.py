"""Block hashes become groups: a continued conversation stays in its own, a common system prompt makes none."""

from __future__ import annotations

import traces.prefixes
from traces.prefixes import BLOCK_TOKENS, PrefixGroups


def test_a_conversation_that_goes_on_shares_all_that_was_said() -> None:
    groups = PrefixGroups()
    assert groups.place([0, 1, 2], 1300) == (0, 0)
    assert groups.place([0, 1, 2, 3], 1900) == (0, 3 * BLOCK_TOKENS)
    assert groups.place([0, 1, 2, 3, 4, 5], 2900) == (0, 4 * BLOCK_TOKENS)


def test_who_shares_only_the_system_prompt_begins_a_group() -> None:
    groups = PrefixGroups()
    groups.place([0, 1, 2], 1300)
    assert groups.place([0, 7, 8], 1300) == (1, 0)
    assert groups.place([0, 7, 8, 9], 1600) == (1, 3 * BLOCK_TOKENS)


def test_the_shared_part_is_never_longer_than_the_prompt() -> None:
    groups = PrefixGroups()
    groups.place([0], 100)
    assert groups.place([0], 100) == (0, 100)
    assert groups.place([], 100) == (-1, 0)


def test_the_oldest_blocks_are_forgotten() -> None:
    groups = PrefixGroups()
    groups.place([-1], 10)
    groups.place(list(range(traces.prefixes.REMEMBERED_BLOCKS)), 10)
    group, shared = groups.place([-1], 10)
    assert (group, shared) == (2, 0)
