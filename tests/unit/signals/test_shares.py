"""Who reads which replica: a matter of the log's beats, and of who is alive."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from signals.ingest.shares import MISSED_BEATS, LiveScrapers, scraper_of

NAMES = st.sets(st.text("abcdefgh0123456789-", min_size=1, max_size=12), min_size=1, max_size=8)
REPLICAS = [f"chat-{number}-g{number + 1}" for number in range(60)]
BEATS = st.lists(st.sampled_from("abcd"), max_size=80)


def read(names: set[str]) -> dict[str, str | None]:
    return {replica_id: scraper_of(replica_id, names) for replica_id in REPLICAS}


@given(NAMES, st.text(min_size=1, max_size=12))
def test_one_that_comes_takes_only_what_becomes_its_own(names: set[str], newcomer: str) -> None:
    before, after = read(names), read(names | {newcomer})
    assert all(after[replica_id] in (before[replica_id], newcomer) for replica_id in REPLICAS)


@given(NAMES)
def test_of_one_that_goes_only_its_own_moves(names: set[str]) -> None:
    gone = min(names)
    before, after = read(names), read(names - {gone})
    assert all(after[replica_id] == before[replica_id] for replica_id in REPLICAS if before[replica_id] != gone)


@given(NAMES)
def test_every_replica_has_one_reader_whatever_the_order(names: set[str]) -> None:
    found = read(names)
    assert set(found.values()) <= names
    assert all(scraper_of(replica_id, sorted(names, reverse=True)) == name for replica_id, name in found.items())


def test_shares_are_about_equal() -> None:
    names = [f"host{number}-41-c0ffee" for number in range(4)]
    shares = Counter(scraper_of(f"chat-{number}-g{number}", names) for number in range(4000))
    assert all(850 <= shares[name] <= 1150 for name in names)


def test_a_share_is_the_same_in_every_process_and_release() -> None:
    names = ("one-1-aa", "two-2-bb", "three-3-cc")
    found = [scraper_of(f"chat-{number}-g1", names) for number in range(6)]
    assert found == ["two-2-bb", "one-1-aa", "three-3-cc", "one-1-aa", "one-1-aa", "two-2-bb"]


def test_nobody_reads_where_nobody_is() -> None:
    assert scraper_of("chat-0-g1", ()) is None


def live_after(*beats: str) -> frozenset[str]:
    scrapers = LiveScrapers()
    for name in beats:
        scrapers.beat(name)
    return scrapers.names


def test_one_that_misses_its_beats_is_gone_and_back_with_the_next() -> None:
    beats = ["a", "b"] + ["a"] * (MISSED_BEATS - 1)
    assert live_after(*beats) == {"a", "b"}
    assert live_after(*beats, "a") == {"a"}
    assert live_after(*beats, "a", "b") == {"a", "b"}


def test_many_others_make_nobody_older() -> None:
    others = [f"other-{number}" for number in range(40)]
    assert live_after("a", *others, *others) == {"a", *others}


def test_as_many_names_as_anyone_makes_up_cost_little_and_are_soon_gone() -> None:
    """With a count for each pair of names, four thousand took a scraper's memory and its answer to SIGTERM."""
    made_up = [f"made-up-{number}" for number in range(30_000)]
    assert live_after(*made_up) == set(made_up)
    assert live_after(*made_up, *["a"] * MISSED_BEATS) == {"a"}


def test_one_alone_is_never_gone() -> None:
    assert live_after(*["a"] * 50) == {"a"}


def test_one_that_says_farewell_is_gone_at_once() -> None:
    scrapers = LiveScrapers()
    scrapers.beat("a")
    scrapers.beat("b")
    scrapers.left("a")
    scrapers.left("unheard-of")
    assert scrapers.names == {"b"}


@given(BEATS, BEATS)
def test_who_began_to_read_late_soon_finds_what_all_find(missed: list[str], read_by_all: list[str]) -> None:
    enough = [*read_by_all, *["a", "b"] * MISSED_BEATS]
    assert live_after(*missed, *enough) == live_after(*enough)
