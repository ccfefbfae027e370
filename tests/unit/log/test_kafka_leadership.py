"""Who of the brokers in the control group is given its partition."""

from __future__ import annotations

from dataclasses import dataclass, field

from broker.log.kafka.leadership import OwnerKeeps

TOPIC = "demo.control"


@dataclass
class Member:
    """One broker of the group, which knows what it was told itself."""

    name: str
    assignor: OwnerKeeps = field(default_factory=lambda: OwnerKeeps(TOPIC))

    @property
    def owns(self) -> bool:
        return self.assignor.claim > 0

    def leads(self, epoch: int) -> None:
        self.assignor.claim = epoch


def rebalanced(*members: Member) -> list[str]:
    """Who owns the partition after the group was asked anew; whoever is not named is away and learns nothing."""
    told = {member.name: member.assignor.metadata({TOPIC}) for member in members}
    assigned = members[0].assignor.assign(None, told)
    for member in members:
        member.assignor.on_assignment(assigned[member.name])
    return [member.name for member in members if member.owns]


def test_the_first_of_those_that_come_together_is_chosen() -> None:
    assert rebalanced(Member("b"), Member("a"), Member("c")) == ["a"]


def test_whoever_owns_it_keeps_it_when_others_come_and_go() -> None:
    late, early, owner = Member("a"), Member("b"), Member("c")
    assert rebalanced(owner) == ["c"]
    assert rebalanced(late, owner) == ["c"]  # it has no epoch yet
    owner.leads(7)
    assert rebalanced(late, early, owner) == ["c"]
    assert rebalanced(early, owner) == ["c"]


def test_a_leader_that_was_away_does_not_take_it_from_its_successor() -> None:
    old, new = Member("a"), Member("b")
    rebalanced(old)
    old.leads(7)
    assert rebalanced(new) == ["b"]
    assert rebalanced(old, new) == ["b"]
    old.leads(7)  # it was away again, and has not heard
    new.leads(8)
    assert rebalanced(old, new) == ["b"]
    assert not old.owns


def test_another_is_chosen_once_the_owner_has_gone() -> None:
    owner, other = Member("a"), Member("b")
    assert rebalanced(owner, other) == ["a"]
    assert rebalanced(other) == ["b"]
