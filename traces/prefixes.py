"""Shared-prefix groups from the block hashes of a Mooncake trace, in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence

from traces.blocks import NONE

BLOCK_TOKENS = 512
"""Tokens under one hash of a Mooncake trace."""

REMEMBERED_BLOCKS = 262_144
"""134 million tokens: more than the caches of a hundred replicas hold. The oldest are forgotten."""


class PrefixGroups:
    """Gives each prompt a group and says how much of it the group has seen.

    A block's hash stands for all tokens up to its end, so equal hashes are equal beginnings, and a prompt shares what
    lies before its last known block. It joins that block's group if at least half of the prompt is shared: then it
    continues the conversation, or asks again about the same document. With less it begins a group of its own: what it
    shares is a system prompt that everybody has, which would make one group of all.
    """

    def __init__(self) -> None:
        self._group_of: dict[int, int] = {}
        self._groups = 0

    def place(self, blocks: Sequence[int], prompt_tokens: int) -> tuple[int, int]:
        """(group, leading tokens of this prompt that the group has seen before)."""
        if not blocks:
            return NONE, 0
        shared = next((count for count in range(len(blocks), 0, -1) if blocks[count - 1] in self._group_of), 0)
        if 2 * shared >= len(blocks):
            group, tokens = self._group_of[blocks[shared - 1]], min(prompt_tokens, shared * BLOCK_TOKENS)
        else:
            group, tokens = self._groups, 0
            self._groups += 1
        for block in blocks[shared:]:
            self._group_of[block] = group
        while len(self._group_of) > REMEMBERED_BLOCKS:
            del self._group_of[next(iter(self._group_of))]
        return group, tokens
