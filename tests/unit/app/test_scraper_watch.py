"""What a broker says of the scrapers that it relies on, by how far their topic goes."""

from __future__ import annotations

import structlog

from broker.app.scraper_watch import SILENT_AFTER_S, ScraperWatch
from broker.log.kafka.client import Connection
from broker.log.kafka.topics import Layout
from tests.support.actuator_worlds import SetClock


class Watched:
    def __init__(self) -> None:
        self.clock = SetClock()
        self.watch = ScraperWatch(Connection(("127.0.0.1:1",)), Layout("t"), self.clock)

    def told(self, *ends: int | None, every_s: float = 1.0) -> list[str]:
        """The events of one look after the other; None: Kafka does not answer."""
        with structlog.testing.capture_logs() as lines:
            for end in ends:
                self.clock.at += every_s
                self.watch.look(end)
        return [line["event"] for line in lines]


def test_nothing_is_said_while_anybody_beats() -> None:
    assert Watched().told(*range(0, 200, 3)) == []
    assert Watched().told(*range(30), every_s=SILENT_AFTER_S - 0.1) == []


def test_that_nobody_beats_is_said_once_and_once_that_somebody_does_again() -> None:
    watched = Watched()
    assert watched.told(*[7] * 40) == ["no_scraper"]
    assert watched.told(8, 9, 10) == ["scraper_heard"]
    assert watched.told(*[10] * 40) == ["no_scraper"]


def test_a_topic_in_which_nobody_ever_beat_counts_from_the_start() -> None:
    watched = Watched()
    assert watched.told(*[0] * int(SILENT_AFTER_S)) == []
    assert watched.told(0, 0) == ["no_scraper"]


def test_while_kafka_does_not_answer_nobody_knows() -> None:
    watched = Watched()
    assert watched.told(7, *[None] * 100, 7, 7) == []
    assert watched.told(*[7] * 20) == ["no_scraper"]
    assert watched.told(None, 7, *[7] * 20) == []
    assert watched.told(None, 8) == ["scraper_heard"]


def test_how_long_it_is_silent_is_known_once_kafka_has_answered() -> None:
    watched = Watched()
    assert watched.watch.silent_s is None
    watched.told(7, 7, 7)
    assert watched.watch.silent_s == 2.0
    watched.told(None)
    assert watched.watch.silent_s is None
    watched.told(7, 7)
    assert watched.watch.silent_s == 1.0
