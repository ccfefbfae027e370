"""What an engine still holds of prompts' shared beginnings.

vLLM keeps the blocks of ended sequences for reuse until it needs them, in a queue: freed blocks go to its end, new
ones are taken from its front, and a sequence's blocks are freed last block first. Everything behind a block in the
queue was freed after it, so a prefix that nobody uses has lost as many blocks as were freed since and are not free
any more, from its end. That is one subtraction, and needs no queue.

A group is taken for one growing text, as a conversation is: whoever was computed leaves what it had, prompt and
answer, and whoever comes finds as much of the longest of these as it says that it shares. Sequences of one group do
not share memory here, as they do in vLLM: each takes blocks of its own. That is exact for conversations, where one
turn follows the other; a prefix that many use at once takes too much room.
"""

from __future__ import annotations

from dataclasses import dataclass

from simulator.engine.requests import EngineRequest


@dataclass(slots=True)
class _Prefix:
    """``blocks`` held of one group's prefix, used by ``users`` sequences; ``freed_before``: the cache's count when the
    last of them left."""

    blocks: int = 0
    users: int = 0
    freed_before: int = 0


class PrefixCache:
    """One engine's. Blocks are counted as given up (``leave``) from its beginning."""

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._freed = 0
        self._prefixes: dict[int, _Prefix] = {}

    def enter(self, request: EngineRequest, known_tokens: int, free_blocks: int) -> int:
        """A sequence is admitted while ``free_blocks`` are free: how many of its tokens need no computing.

        Whole blocks, and at least one token is computed.
        """
        if request.prefix_group is None:
            return request.cached_tokens
        prefix = self._prefixes.setdefault(request.prefix_group, _Prefix())
        if not prefix.users:
            prefix.blocks = max(0, min(prefix.blocks, free_blocks - (self._freed - prefix.freed_before)))
        prefix.users += 1
        shared_blocks = min(request.prefix_tokens, known_tokens - 1) // self._block_size
        return max(request.cached_tokens, min(prefix.blocks, shared_blocks) * self._block_size)

    def fill(self, request: EngineRequest, computed_tokens: int) -> None:
        """A sequence's first ``computed_tokens`` are being computed; others find them from now on, as in vLLM."""
        if request.prefix_group is not None:
            prefix = self._prefixes[request.prefix_group]
            prefix.blocks = max(prefix.blocks, computed_tokens // self._block_size)

    def leave(self, request: EngineRequest, blocks: int, computed_tokens: int) -> None:
        """A sequence gives up its ``blocks``, with ``computed_tokens`` in them: finished, preempted or aborted."""
        self._freed += blocks
        self.fill(request, computed_tokens)
        if request.prefix_group is not None:
            prefix = self._prefixes[request.prefix_group]
            prefix.users -= 1
            prefix.freed_before = self._freed
