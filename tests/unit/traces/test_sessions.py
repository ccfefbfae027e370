"""Sessions go on: open loop at nominal pace, closed loop as the answers come; the questions are the same."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from traces.blocks import NONE, joined
from traces.clients import ClientRules, Clients, Ending, Question, recorded
from traces.fit import fit_profile
from traces.generate import LoadProfile, generate, scripts
from traces.lengths import lognormal_quantiles
from traces.profiles import load_profile
from traces.rates import steady
from traces.schema import TraceRequest, as_requests
from traces.sessions import SessionShape

SHAPE = SessionShape(4.0, 10.0, 0.8, lognormal_quantiles(50, 0.7, 2000), 100_000)
CHATTING = replace(load_profile("azure2023_conv"), sessions=SHAPE)


def by_session(profile: LoadProfile, seed: int) -> dict[int | None, list[TraceRequest]]:
    sessions: dict[int | None, list[TraceRequest]] = {}
    for request in generate(profile, steady(4.0, 4000.0), seed):
        sessions.setdefault(request.session, []).append(request)
    return sessions


def test_each_prompt_repeats_what_was_said_and_adds_to_it() -> None:
    for turns in by_session(CHATTING, 1).values():
        assert turns[0].prefix_tokens == 0
        for before, after in pairwise(turns):
            assert after.prefix_tokens == before.prompt_tokens + before.output_tokens
            assert after.prompt_tokens > after.prefix_tokens
            assert after.prefix_group == before.prefix_group


def test_sessions_have_their_turns_and_the_load_its_rate() -> None:
    sessions = by_session(CHATTING, 2)
    whole = [turns for turns in sessions.values() if turns[0].arrival_s < 3000]
    assert np.mean([len(turns) for turns in whole]) == pytest.approx(4.0, rel=0.1)
    assert sum(map(len, sessions.values())) / 4000 == pytest.approx(4.0, rel=0.1)


def test_no_session_outgrows_the_longest_context() -> None:
    short = replace(CHATTING, sessions=replace(SHAPE, longest_tokens=3000, turns=50.0))
    further = [request for turns in by_session(short, 3).values() for request in turns[1:]]
    assert further
    assert max(request.prompt_tokens + request.output_tokens for request in further) <= 3000


def test_a_fit_finds_the_sessions_again() -> None:
    fitted = fit_profile(generate(CHATTING, steady(20.0, 4000.0), 4), name="again", provenance="generated")
    assert fitted.sessions is not None
    assert fitted.sessions.turns == pytest.approx(4.0, rel=0.1)
    assert fitted.sessions.pause_median_s == pytest.approx(10.0, rel=0.1)
    assert fitted.sessions.pause_sigma == pytest.approx(0.8, rel=0.1)
    assert fitted.sessions.added.at(0.5) == pytest.approx(SHAPE.added.at(0.5), rel=0.1)
    assert fitted.prompt.at(0.5) == pytest.approx(CHATTING.prompt.at(0.5), rel=0.1)


def test_tenants_have_their_shares_and_keep_their_sessions() -> None:
    requests = generate(CHATTING, steady(20.0, 2000.0), 5, tenants={"a": 3.0, "b": 1.0})
    owners: dict[int | None, set[str | None]] = {}
    for request in requests:
        owners.setdefault(request.session, set()).add(request.tenant)
    assert all(len(found) == 1 for found in owners.values())
    assert np.mean([found == {"a"} for found in owners.values()]) == pytest.approx(0.75, abs=0.03)


@settings(max_examples=20)
@given(st.integers(0, 2**32), st.lists(st.sampled_from(Ending), min_size=1), st.floats(0, 100))
def test_whatever_the_answers_the_same_questions_are_asked(seed: int, endings: list[Ending], late_s: float) -> None:
    """Common random numbers: a policy changes when and how often a question comes, never what it is."""
    rules = ClientRules(patience_median_s=20.0, retries=3, retry_share=0.8)

    def asked(wait_s: float) -> list[Question]:
        clients = Clients(rules, seed)
        found = []
        for opening in clients.openings(scripts(CHATTING, steady(1.0, 60.0), seed)):
            question: Question | None = opening
            for ending in endings:
                if question is None:
                    break
                found.append(question)
                question = clients.after(question, ending, question.at_s + wait_s)
        return found

    def said(questions: list[Question]) -> list[tuple[int, int, int, int, float]]:
        return [(q.number, q.attempt, q.prompt_tokens, q.output_tokens, q.patience_s) for q in questions]

    assert said(asked(1.0)) == said(asked(1.0 + late_s))


def conversation() -> tuple[Clients, Question]:
    clients = Clients(ClientRules(retries=2, retry_pause_s=4.0), seed=1)
    found = clients.openings(scripts(CHATTING, steady(1.0, 100.0), 1))
    return clients, next(q for q in found if q.row + 1 < len(q.script) and not q.script.first[q.row + 1])


def test_an_answered_client_goes_on_after_a_pause() -> None:
    clients, question = conversation()
    further = clients.after(question, Ending.ANSWERED, 500.0)
    assert further is not None
    assert (further.number, further.attempt) == (question.number + 1, 0)
    assert further.at_s == 500.0 + question.script.pause_s[question.row + 1]
    assert further.prompt_tokens > question.prompt_tokens + question.output_tokens


@pytest.mark.parametrize("ending", [Ending.FAILED, Ending.REJECTED, Ending.ABANDONED])
def test_a_client_without_an_answer_asks_again_later_and_later_then_gives_up(ending: Ending) -> None:
    clients, question = conversation()
    pauses = []
    at: Question | None = question
    while at is not None:
        again = clients.after(at, ending, at.at_s)
        if again is not None:
            assert (again.number, again.prompt_tokens) == (question.number, question.prompt_tokens)
            pauses.append(again.at_s - at.at_s)
        at = again
    assert len(pauses) == 2
    assert 2.0 <= pauses[0] <= 6.0
    assert 4.0 <= pauses[1] <= 12.0


def test_patience_is_lognormal_and_endless_by_default() -> None:
    rows = as_requests([TraceRequest(float(n), 10, 10) for n in range(4000)])
    patient = Clients(ClientRules(), 1).openings(recorded(rows))
    assert all(math.isinf(question.patience_s) for question in patient)
    hurried = Clients(ClientRules(patience_median_s=8.0, patience_sigma=0.3), 1).openings(recorded(rows))
    logs = np.log([question.patience_s for question in hurried])
    assert (np.exp(logs.mean()), logs.std()) == pytest.approx((8.0, 0.3), rel=0.05)


def test_recorded_requests_are_sessions_of_one() -> None:
    rows = as_requests([TraceRequest(float(n), 10, 10, session=1) for n in range(3)])
    clients = Clients(ClientRules(), 1)
    questions = list(clients.openings(recorded(rows)))
    assert [question.at_s for question in questions] == [0.0, 1.0, 2.0]
    assert all(clients.after(question, Ending.ANSWERED, 9.0) is None for question in questions)


def test_a_load_without_sessions_has_none() -> None:
    block = joined(list(generate(load_profile("azure2023_conv"), steady(5.0, 100.0), 1).blocks()))
    assert set(block.session.tolist()) == {NONE}
