"""What a passing stream says of itself, however it is cut into chunks."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.model.errors import WireError
from gateway.sse import (
    ENGINE_ABORTED,
    ENGINE_ERROR,
    EVENT_BYTES,
    EventReader,
    ServerSentEvent,
    StreamWatch,
    Usage,
    find_usage,
    was_aborted,
)
from tests.support.fake_engine import event

DONE = b"data: [DONE]\n\n"


def token(text: str, reason: str | None = None) -> bytes:
    return event({"choices": [{"delta": {"content": text}, "finish_reason": reason}]})


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[begin:end] for begin, end in itertools.pairwise(edges) if begin < end]


def watch_all(chunks: list[bytes]) -> tuple[StreamWatch, bytes]:
    """The watch after all chunks, and what it let through until it saw a fault."""
    watch, through = StreamWatch(), b""
    for chunk in chunks:
        through += chunk[: watch.feed(chunk)]
        if watch.fault:
            break
    return watch, through


places = st.lists(st.integers(0, 2000), max_size=12)
texts = st.lists(st.one_of(st.text(max_size=20), st.sampled_from(["abort", "[DONE]", "error", '"usage":{', "\r\n\n"])))


@given(texts, places)
def test_a_finished_stream_is_seen_as_finished_and_passes_whole(texts: list[str], places: list[int]) -> None:
    stream = b"".join(token(text) for text in texts) + token("", "stop") + DONE
    watch, through = watch_all(cut(stream, places))
    assert (watch.done, watch.fault, through) == (True, "", stream)
    assert watch.events == len(texts) + 2
    assert not watch.midway


@given(texts, places)
def test_a_stream_without_done_is_never_seen_as_finished(texts: list[str], places: list[int]) -> None:
    watch, _ = watch_all(cut(b"".join(token(text) for text in texts), places))
    assert not watch.done


@given(texts, places)
def test_an_aborted_stream_is_stopped_before_its_done(texts: list[str], places: list[int]) -> None:
    before = b"".join(token(text) for text in texts)
    watch, through = watch_all(cut(before + token("", "abort") + DONE, places))
    assert watch.fault == ENGINE_ABORTED
    assert b"[DONE]\n\n" not in through[len(before) :]
    assert through.startswith(before)


@given(texts, places)
def test_an_error_in_the_stream_is_passed_on_but_no_done_after_it(texts: list[str], places: list[int]) -> None:
    before = b"".join(token(text) for text in texts)
    watch, through = watch_all(cut(before + event({"error": {"message": "broken"}}) + DONE, places))
    assert watch.fault == ENGINE_ERROR
    assert b"[DONE]" not in through[len(before) :]


def test_an_unfragmented_abort_leaves_whole_events_only() -> None:
    watch, through = watch_all([token("a") + token("b", "abort") + DONE])
    assert (through, watch.fault) == (token("a"), ENGINE_ABORTED)


@pytest.mark.parametrize("line_end", [b"\r\n", b"\n"], ids=["crlf", "lf"])
def test_both_line_endings_are_understood(line_end: bytes) -> None:
    stream = (token("a") + DONE).replace(b"\n", line_end)
    watch, through = watch_all([stream[i : i + 3] for i in range(0, len(stream), 3)])
    assert (watch.done, watch.events, through) == (True, 2, stream)


def test_usage_comes_from_the_last_event_that_has_one() -> None:
    watch = StreamWatch()
    watch.feed(event({"choices": [], "usage": None}))
    watch.feed(event({"usage": {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": None}}))
    watch.feed(DONE)
    assert watch.usage() == Usage(7, 3)


def test_usage_is_unknown_where_none_is_told() -> None:
    watch = StreamWatch()
    watch.feed(token("a"))
    assert watch.usage() == Usage(None, None)


def test_tokens_are_counted_by_events_without_the_final_mark() -> None:
    watch, _ = watch_all([token("a"), token("b"), DONE])
    assert watch.tokens == 2


def test_an_event_without_end_does_not_fill_the_memory() -> None:
    watch = StreamWatch()
    for _ in range(40):
        watch.feed(b"data: " + b"x" * 64 * 1024)
    watch.feed(b"\n\n" + DONE)
    assert watch.done


def test_whole_bodies_tell_their_usage_and_abort() -> None:
    body = json.dumps({"choices": [{"text": 'say "usage": {"prompt_tokens": 9}', "finish_reason": "stop"}]}).encode()
    assert find_usage(body) == Usage()
    assert find_usage(body[:-1] + b',"usage": {"prompt_tokens": 5, "completion_tokens": 6}}') == Usage(5, 6)
    assert was_aborted(b'{"choices":[{"finish_reason": "abort"}]}')
    assert not was_aborted(json.dumps({"text": '"finish_reason":"abort"'}).encode())


@given(places)
def test_events_of_the_broker_are_read_however_they_arrive(places: list[int]) -> None:
    stream = b'id: 1\r\nevent: snapshot\r\ndata: {"a":1}\r\n\r\n: still here\n\n'
    stream += b"event: lease\ndata: x\ndata: y\n\ndata: z\n\n"
    reader = EventReader()
    events = [found for chunk in cut(stream, places) for found in reader.feed(chunk)]
    assert events == [
        ServerSentEvent("snapshot", '{"a":1}'),
        ServerSentEvent("lease", "x\ny"),
        ServerSentEvent("message", "z"),
    ]


def test_a_count_of_more_digits_than_numbers_have_is_no_count() -> None:
    assert find_usage(b'{"usage": {"prompt_tokens": ' + b"9" * 5000 + b', "completion_tokens": 6}}') == Usage(None, 6)


def test_an_event_that_does_not_end_is_refused_before_it_fills_the_memory() -> None:
    with pytest.raises(WireError, match="bytes"):
        list(EventReader().feed(b"x" * (EVENT_BYTES + 1)))
