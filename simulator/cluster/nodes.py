"""Sets of nodes, and how many GPUs are free on each.

A set of nodes is an ``int`` whose bit *i* is node *i*: union, intersection and counting then cost nanoseconds also for
thousands of nodes, where sets of names cost milliseconds. On a cluster without GPUs the processors take their place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

NodeSet: TypeAlias = int


def node_range(first: int, count: int) -> NodeSet:
    return ((1 << count) - 1) << first


def members(nodes: NodeSet) -> Iterator[int]:
    """The node numbers, rising."""
    while nodes:
        lowest_bit = nodes & -nodes
        yield lowest_bit.bit_length() - 1
        nodes ^= lowest_bit


def lowest(nodes: NodeSet, count: int) -> NodeSet:
    """The ``count`` members of the lowest numbers; all, if there are no more than that."""
    if count == 1:
        return nodes & -nodes
    if nodes.bit_count() <= count:
        return nodes
    low, high = count, nodes.bit_length()
    while low < high:
        middle = (low + high) // 2
        if (nodes & ((1 << middle) - 1)).bit_count() < count:
            low = middle + 1
        else:
            high = middle
    return nodes & ((1 << low) - 1)


class Capacity:
    """Free GPUs of every node, as levels: ``with_free[k]`` are the nodes on which at least ``k`` GPUs are free.

    Taking and giving back is a handful of operations on whole sets, however many nodes a job has.
    """

    __slots__ = ("with_free",)

    def __init__(self, with_free: list[NodeSet]) -> None:
        self.with_free = with_free

    @classmethod
    def of(cls, gpus: Sequence[int]) -> Capacity:
        """Everything free on nodes of these sizes."""
        levels = [0] * (max(gpus, default=0) + 1)
        for node, size in enumerate(gpus):
            for level in range(size + 1):
                levels[level] |= 1 << node
        return cls(levels)

    def copy(self) -> Capacity:
        return Capacity(self.with_free.copy())

    def take(self, nodes: NodeSet, gpus: int) -> None:
        """Allocate ``gpus`` on each of ``nodes``, all of which must have them free."""
        levels = self.with_free
        for level in range(1, len(levels)):
            above = levels[level + gpus] if level + gpus < len(levels) else 0
            levels[level] &= ~nodes | above

    def give(self, nodes: NodeSet, gpus: int) -> None:
        """Free ``gpus`` again on each of ``nodes``."""
        levels = self.with_free
        for level in range(len(levels) - 1, 0, -1):
            levels[level] |= nodes & levels[level - gpus] if level > gpus else nodes

    def tightest(self, among: NodeSet, count: int, gpus: int) -> NodeSet:
        """``count`` of the nodes ``among`` with ``gpus`` free, those first that have the fewest to spare (Slurm's best
        fit), then by number: what is left stays in large pieces. ``among`` must have that many."""
        chosen, missing = 0, count
        levels = self.with_free
        for level in range(gpus, len(levels)):
            exact = among & levels[level]
            if level + 1 < len(levels):
                exact &= ~levels[level + 1]
            if exact:
                chosen |= (found := lowest(exact, missing))
                missing -= found.bit_count()
                if not missing:
                    break
        return chosen
