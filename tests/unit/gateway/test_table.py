"""The routing table: what is chosen, what is acknowledged, and that order and repetition do not matter."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.model.api import EndpointsSnapshot
from broker.model.replica import EndpointRecord, ReplicaPhase, Tier
from gateway.table import RegistryChange, RoutingTable

READY, DRAINING, GONE = ReplicaPhase.READY, ReplicaPhase.DRAINING, ReplicaPhase.GONE
NOW = 1_000.0


def record(name: str, phase: ReplicaPhase = READY, revision: int = 1, **more: object) -> EndpointRecord:
    plain = EndpointRecord(name, "chat", f"http://{name}", phase, 1, Tier.BASELINE, revision)
    return replace(plain, **more)  # type: ignore[arg-type]


def change(name: str, phase: ReplicaPhase, revision: int) -> RegistryChange:
    return RegistryChange(revision, record(name, phase, revision))


def table_of(*records: EndpointRecord, revision: int = 10) -> RoutingTable:
    table = RoutingTable()
    table.replace(EndpointsSnapshot(revision, "test", NOW, records))
    return table


def chosen(table: RoutingTable, *, now: float = NOW, tried: tuple[str, ...] = ()) -> str | None:
    found = table.choose("chat", "chat", now, tried=tried)
    return found.endpoint_id if found else None


def view(table: RoutingTable) -> dict[str, EndpointRecord]:
    return {each.endpoint_id: each for each in table.records()}


def test_the_endpoint_with_the_fewest_open_requests_is_chosen() -> None:
    table = table_of(record("a"), record("b"))
    assert [chosen(table), chosen(table)] == ["a", "b"]
    table.release("b")
    assert chosen(table) == "b"


def test_among_equals_the_one_least_recently_chosen_is_next() -> None:
    table = table_of(record("a"), record("b"), record("c"))
    order = []
    for _ in range(6):
        name = chosen(table)
        assert name is not None
        order.append(name)
        table.release(name)
    assert order == ["a", "b", "c", "a", "b", "c"]


@pytest.mark.parametrize(
    "unfit",
    [
        pytest.param(record("b", DRAINING), id="draining"),
        pytest.param(record("b", GONE), id="gone"),
        pytest.param(record("b", not_after=NOW), id="past its time"),
        pytest.param(record("b", capabilities=("embeddings",)), id="without the capability"),
        pytest.param(record("b", model_id="other"), id="of another model"),
    ],
)
def test_an_unfit_endpoint_is_never_chosen(unfit: EndpointRecord) -> None:
    table = table_of(record("a"), unfit)
    assert [chosen(table) for _ in range(3)] == ["a", "a", "a"]
    assert chosen(table, tried=("a",)) is None


def test_an_unhealthy_endpoint_is_chosen_again_when_it_has_recovered() -> None:
    table = table_of(record("a"))
    assert table.mark("a", healthy=False)
    assert not table.mark("a", healthy=False), "no news twice"
    assert [each.endpoint_id for each in table.unhealthy()] == ["a"]
    assert chosen(table) is None
    assert table.mark("a", healthy=True)
    assert chosen(table) == "a"


def test_marking_an_unknown_endpoint_is_no_news() -> None:
    assert not table_of().mark("nobody", healthy=False)


def test_requests_stay_open_at_a_draining_endpoint_until_they_end() -> None:
    table = table_of(record("a"))
    chosen(table), chosen(table)
    table.apply(change("a", DRAINING, 11))
    assert table.in_flight() == {"a": 2}
    assert not table.release("a")
    assert table.release("a"), "the last one ends the drain"
    assert table.in_flight() == {}


def test_a_gone_endpoint_is_reported_while_requests_are_open_and_forgotten_after() -> None:
    table = table_of(record("a"))
    chosen(table)
    table.apply(change("a", GONE, 11))
    table.apply(change("b", READY, 12))
    assert table.in_flight() == {"a": 1}
    assert table.release("a")
    assert table.in_flight() == {}
    assert list(view(table)) == ["b"]


def test_the_last_request_of_a_ready_endpoint_ends_no_drain() -> None:
    table = table_of(record("a"))
    chosen(table)
    assert not table.release("a")


def test_a_revision_is_acknowledged_only_when_all_before_it_are_applied() -> None:
    table = table_of(record("a"), record("b"))
    table.apply(change("a", DRAINING, 12))
    assert (table.applied_revision, table.has_gap) == (10, True)
    assert chosen(table) == "b", "what is known is heeded at once"
    table.apply(change("b", DRAINING, 11))
    assert (table.applied_revision, table.has_gap) == (12, False)


def test_an_outdated_change_does_not_bring_an_endpoint_back() -> None:
    table = table_of(record("a"))
    table.apply(change("a", GONE, 11))
    table.apply(change("b", READY, 12))
    table.apply(change("a", READY, 10))
    assert list(view(table)) == ["b"]


def test_a_snapshot_removes_what_it_does_not_list() -> None:
    table = table_of(record("a"), record("b"))
    table.replace(EndpointsSnapshot(15, "test", NOW, (record("b", revision=14),)))
    assert list(view(table)) == ["b"]
    assert table.applied_revision == 15


def test_a_change_that_overtook_a_snapshot_stays() -> None:
    table = table_of(record("a"))
    table.apply(change("a", DRAINING, 13))
    table.replace(EndpointsSnapshot(12, "test", NOW, (record("a", READY, 1),)))
    assert view(table)["a"].phase is DRAINING
    assert table.applied_revision == 13


def test_a_registry_that_began_anew_replaces_everything_but_open_requests() -> None:
    table = table_of(record("a", revision=9), record("b", revision=9))
    chosen(table)
    table.replace(EndpointsSnapshot(2, "test", NOW, (record("b", revision=1), record("c", revision=2))))
    assert sorted(view(table)) == ["b", "c"]
    assert view(table)["b"].revision == 1
    assert table.in_flight() == {"a": 1}
    assert table.applied_revision == 2


def test_a_registry_that_began_anew_and_came_past_our_revision_unheard_replaces_everything_too() -> None:
    table = table_of(record("a", DRAINING, revision=9), record("b", revision=8))
    table.replace(EndpointsSnapshot(20, "test", NOW, (record("a", READY, revision=3),)))
    assert [(found.endpoint_id, found.phase, found.revision) for found in table.records()] == [("a", READY, 3)]


def test_expected_models_are_known_before_the_registry_names_them() -> None:
    table = RoutingTable(["chat"])
    assert table.knows("chat")
    assert not table.knows("other")
    assert not table.lacks_capability("chat", "chat"), "nothing is known of its capabilities yet"


def declaring(*models: str, records: tuple[EndpointRecord, ...] = (), revision: int = 11) -> EndpointsSnapshot:
    return EndpointsSnapshot(revision, "test", NOW, records, models)


def test_a_declared_model_is_known_before_it_has_an_endpoint() -> None:
    table = table_of(record("a"))
    table.replace(declaring("chat", "new", records=(record("a"),)))
    assert table.models() == ["chat", "new"]
    assert table.knows("new")


def test_a_retired_model_is_known_until_its_last_endpoint_is_gone() -> None:
    table = table_of(record("a"))
    table.replace(declaring("other", records=(record("a"),)))
    assert table.models() == ["chat", "other"]
    table.apply(change("a", DRAINING, 12))
    assert table.knows("chat")
    table.apply(change("a", GONE, 13))
    assert table.models() == ["other"]
    assert not table.knows("chat")


def test_an_expected_model_that_is_not_declared_is_unknown() -> None:
    table = RoutingTable(["chat"])
    table.replace(declaring("other"))
    assert not table.knows("chat")


def test_a_model_that_cannot_do_what_is_asked_is_told_from_one_that_is_away() -> None:
    table = table_of(record("a"))
    assert table.lacks_capability("chat", "embeddings")
    assert not table.lacks_capability("chat", "chat")


phases = st.sampled_from([READY, DRAINING, GONE])
histories = st.lists(st.tuples(st.sampled_from("abcd"), phases), min_size=1, max_size=25)


@given(histories, st.data())
def test_any_order_and_repetition_of_changes_gives_the_same_table(
    history: list[tuple[str, ReplicaPhase]], data: st.DataObject
) -> None:
    changes = [change(name, phase, number) for number, (name, phase) in enumerate(history, start=11)]
    in_order, shuffled = table_of(), table_of()
    for each in changes:
        in_order.apply(each)
    repeated = changes + data.draw(st.lists(st.sampled_from(changes), max_size=10))
    for each in data.draw(st.permutations(repeated)):
        shuffled.apply(each)
    assert view(shuffled) == view(in_order)
    assert shuffled.applied_revision == in_order.applied_revision == 10 + len(changes)
    assert not shuffled.has_gap


@given(histories, st.data())
def test_an_endpoint_is_never_chosen_once_its_withdrawal_was_applied(
    history: list[tuple[str, ReplicaPhase]], data: st.DataObject
) -> None:
    changes = [change(name, phase, number) for number, (name, phase) in enumerate(history, start=11)]
    table = table_of()
    newest: dict[str, RegistryChange] = {}
    for each in data.draw(st.permutations(changes)):
        table.apply(each)
        name = each.endpoint.endpoint_id
        if name not in newest or newest[name].revision < each.revision:
            newest[name] = each
        if (choice := chosen(table)) is not None:
            assert newest[choice].endpoint.phase is READY
            if data.draw(st.booleans()):
                table.release(choice)


@given(histories)
def test_an_acknowledged_revision_means_that_every_change_up_to_it_is_in_the_table(
    history: list[tuple[str, ReplicaPhase]],
) -> None:
    changes = [change(name, phase, number) for number, (name, phase) in enumerate(history, start=11)]
    table, applied = table_of(), set(range(11))
    for each in reversed(changes):
        table.apply(each)
        applied.add(each.revision)
        assert set(range(table.applied_revision + 1)) <= applied
