"""Where the recording's misses come from: the server's pace, or the engine's rules."""

from __future__ import annotations

import numpy as np

from accuracy.base import Cell, Table, percent
from accuracy.intervals import middle_90, resampled, told
from accuracy.recorded import LEAST_REQUESTS, OVERLOAD, Chosen, Comparison, kind, paced, steps_of
from accuracy.recording_suspects import suspects
from simulator.calibration.fit import changed, fit_profile
from simulator.calibration.recording import Phase
from simulator.calibration.replay import Floats, Times, replay
from simulator.engine.profile import EngineProfile
from simulator.engine.requests import Finished
from simulator.engine.single import CompiledEngine

PACES = (0.9, 0.95, 1.0, 1.05, 1.1)
PIECE_S = 5.0


def causes(found: Comparison) -> tuple[Table, ...]:
    return (
        _pace(found),
        _lonely(found),
        _alike(found),
        _full(found),
        suspects(found),
        _engine_times(found),
        _overload_by_pace(found),
    )


def _pace(found: Comparison) -> Table:
    """How far the server's pace was from the fitted one in each phase."""
    rows: list[tuple[Cell, ...]] = []
    for number, phase in enumerate(found.log.phases, 1):
        inside = found.within(phase)
        if inside.sum() >= LEAST_REQUESTS:
            rows.append((phase.name, kind(number), int(inside.sum()), percent(_own_pace(found, phase) - 1)))
    return Table(
        "recording_pace",
        "Time that the server took for decoding beyond what the fitted engine takes, by phase",
        ("phase", "", "n", "slower by"),
        tuple(rows),
        n=sum(row[2] for row in rows if isinstance(row[2], int)),
        free=len(found.fitted.relative_errors),
        remarks=("The same server, on a machine that does other things: no engine with fixed coefficients follows "
                 "this, and it is the floor under all errors above.",),
    )  # fmt: skip


def _own_pace(found: Comparison, phase: Phase) -> float:
    inside = found.within(phase)
    spent = [float((times.end - times.first_token)[inside].sum()) for times in (found.log.times, found.simulated)]
    return spent[0] / spent[1]


RUNNING = ((0.0, 1.5), (1.5, 2.5), (2.5, 3.5), (3.5, 4.5))
LEAST_SCRAPES = 5
LOOKS = 100
"""Times within each interval between two scrapes at which it is asked what was running."""


def _alike(found: Comparison) -> Table:
    """How much slower than fitted the server was by how much was running: what hangs on the batch or on the queue does
    not slow down a single sequence beside which nobody waits."""
    at = found.measured.at[:-1]
    running, expected, done = _iterations(found)
    waits = (found.measured.waiting[:-1] > 0) | (found.measured.waiting[1:] > 0)
    rows: list[tuple[Cell, ...]] = []
    for number, phase in enumerate(found.log.phases, 1):
        inside = (at >= phase.start_s) & (at < phase.end_s)
        if found.within(phase).sum() < LEAST_REQUESTS:
            continue
        for words, chosen in (("nobody waits", inside & ~waits), ("some wait", inside & waits)):
            cells: list[Cell] = []
            for low, high in RUNNING:
                which = chosen & (running > low) & (running <= high)
                if which.sum() < LEAST_SCRAPES:
                    cells.append(None)
                    continue
                slower = [float(expected[which][each].sum() / done[which][each].sum()) - 1
                          for each in resampled(at[which])]  # fmt: skip
                whole = float(expected[which].sum() / done[which].sum()) - 1
                cells.append(f"{percent(whole)} ({told(middle_90(np.array(slower)))})")
            if any(cells):
                rows.append((f"{phase.name}, {words}", kind(number), *cells))
    return Table(
        "recording_alike",
        "Time of an iteration beyond the fitted engine's, by what was running (with 90 % intervals)",
        ("phase", "", *(f"{(low + high) / 2:.0f} running" if low else "up to 1" for low, high in RUNNING)),
        tuple(rows),
        n=len(at),
        free=len(found.fitted.relative_errors),
        remarks=("The server's count of iterations between two scrapes against those that the fitted engine would "
                 f"have done with the sequences that the clients saw decoding then; at least {LEAST_SCRAPES} such "
                 "times. In the overload the server is slow before anybody waits and with half of its slots free.",),
    )  # fmt: skip


def _lonely(found: Comparison) -> Table:
    """Time to first token of requests that came to an engine with nothing or one sequence to decode: no queue, and
    hardly a batch."""
    times = found.log.times
    beside = ((times.first_token <= times.arrival[:, None]) & (times.end > times.arrival[:, None])).sum(axis=1)
    waits = ((times.arrival < times.arrival[:, None]) & (times.first_token > times.arrival[:, None])).any(axis=1)
    rows: list[tuple[Cell, ...]] = []
    for number, phase in enumerate(found.log.phases, 1):
        cells: list[Cell] = []
        for running in (0, 1):
            chosen = found.within(phase) & (beside == running) & ~waits
            if chosen.sum() < LEAST_REQUESTS:
                continue
            medians = [round(1000 * float(np.median(each.ttft[chosen])), 2) for each in (times, found.simulated)]
            cells += [int(chosen.sum()), *medians]
        if len(cells) == 6:
            rows.append((phase.name, kind(number), *cells))
    return Table(
        "recording_lonely",
        "Median time to first token of requests that met no queue (ms)",
        ("phase", "", "n: nothing running", "measured", "simulated", "n: one running", "measured", "simulated"),
        tuple(rows),
        n=sum(cell for row in rows for cell in (row[2], row[5]) if isinstance(cell, int)),
        free=len(found.fitted.relative_errors),
        remarks=("The same state of the server in each row: that measured times differ down a column is its "
                 "pace. A request that finds something running has to wait for the iteration in progress, and is "
                 "hardly later: the engine that had nothing to do had to wake.",),
    )  # fmt: skip


def _iterations(found: Comparison) -> tuple[Floats, Floats, Floats]:
    """Between each two scrapes: sequences running while there were any, and the decoding iterations that the fitted
    engine would have done meanwhile and that the server did."""
    engine, times, at = found.fitted.engine, found.log.times, found.measured.at
    prompts = np.array([request.prompt_tokens for request in found.log.requests], dtype=np.float64)
    alone = ((times.first_token < times.first_token[:, None]) & (times.end > times.first_token[:, None])).sum(
        axis=1
    ) == 0
    counted = np.diff(found.counters["vllm:iteration_tokens_total_count"])
    rows = []
    for begins, ends, iterations in zip(at[:-1], at[1:], counted, strict=True):
        looks = np.linspace(begins, ends, LOOKS)[:, None]
        here = (times.end > begins) & (times.first_token <= ends)
        first, end, output = times.first_token[here], times.end[here], times.output_tokens[here]
        decoding = (first <= looks) & (end > looks)
        running = decoding.sum(axis=1)
        done = np.clip((looks - first) / np.maximum(end - first, 1e-9), 0, 1)
        context = (decoding * (prompts[here] + output * done)).sum(axis=1)
        lasts = engine.base_s + engine.s_per_decode_sequence * running + engine.s_per_kv_token * context
        busy = running > 0
        began = (times.first_token > begins) & (times.first_token <= ends)
        busy_s = busy.mean() * (ends - begins) + 1e-12
        left = 1 - engine.s_per_prefill_token * float(prompts[began & ~alone].sum()) / busy_s
        rows.append((
            running[busy].mean() if busy.any() else 0.0,
            left * float((busy / lasts).mean()) * (ends - begins),
            max(0.0, iterations - float((began & alone).sum())),
        ))  # fmt: skip
    return tuple(np.array(rows, dtype=np.float64).T)


def _full(found: Comparison) -> Table:
    """What the server did while requests waited: every slot is taken then, so that the batch is known."""
    tokens_per_s = _simulated_full_rate(found)
    edges, rates = _full_rates(found)
    iterations = np.diff(found.counters["vllm:iteration_tokens_total_count"])
    tokens = np.diff(found.counters["vllm:generation_tokens_total"])
    rows: list[tuple[Cell, ...]] = []
    phase = found.log.phases[OVERLOAD - 1]
    for begins in np.arange(phase.start_s, phase.end_s, PIECE_S):
        chosen = np.isfinite(rates) & (edges[:-1] >= begins) & (edges[:-1] < begins + PIECE_S)
        if chosen.sum() > 1:
            rate = float(tokens[chosen].sum() / np.diff(edges)[chosen].sum())
            rows.append((
                f"{begins - phase.start_s:g} to {begins - phase.start_s + PIECE_S:g} s", int(chosen.sum()),
                round(float(tokens[chosen].sum() / iterations[chosen].sum()), 2), round(rate),
                round(tokens_per_s), percent(tokens_per_s / rate - 1),
            ))  # fmt: skip
    every = np.isfinite(rates)
    preempted, hits = (found.counters[f"vllm:{name}_total"][-1] for name in ("num_preemptions", "prefix_cache_hits"))
    return Table(
        "recording_full",
        "The overload while requests waited, every five seconds: the server's own counters",
        ("from its beginning", "scrapes", "tokens per iteration", "tokens/s", "simulated tokens/s", "slower by"),
        tuple(rows),
        n=int(every.sum()),
        free=len(found.fitted.relative_errors),
        remarks=(
            f"The batch is as simulated: {tokens[every].sum() / iterations[every].sum():.2f} tokens in each iteration "
            f"of {found.fitted.engine.max_num_seqs} slots, which are taken again at once. {preempted:g} preemptions "
            f"and {hits:g} prefix hits in the whole recording. With the same batch the machine was now slower and now "
            "faster, and the queue is made in the slow seconds.",
        ),
    )


def _full_rates(found: Comparison) -> tuple[Floats, Floats]:
    """The times of the scrapes, and tokens/s between two of them at both of which requests waited; NaN elsewhere."""
    at, waiting = found.measured.at, found.measured.waiting > 0
    rates = np.diff(found.counters["vllm:generation_tokens_total"]) / np.diff(at)
    return at, np.where(waiting[1:] & waiting[:-1], rates, np.nan)


def _simulated_full_rate(found: Comparison) -> float:
    """Tokens/s of the simulated engine between scrapes at both of which requests waited in it."""
    at, waiting = found.gauges.at, found.gauges.waiting > 0
    full = waiting[1:] & waiting[:-1]
    return float(np.diff(tokens_by(found.simulated, at))[full].sum() / np.diff(at)[full].sum())


def tokens_by(times: Times, at: Floats) -> Floats:
    """Tokens that had come out by each of ``at``, a request's own at an even pace from its first to its last."""
    span = np.maximum(times.end - times.first_token, 1e-9)
    share = np.clip((at[:, None] - times.first_token[None, :]) / span[None, :], 0.0, 1.0)
    out: Floats = ((at[:, None] >= times.first_token[None, :]) + share * (times.output_tokens - 1)[None, :]).sum(axis=1)
    return out


def _engine_times(found: Comparison) -> Table:
    """The engine's own clock: means of the requests that finished in each phase, from the server's histograms."""
    simulated = _finished(found)
    at = found.measured.at
    rows: list[tuple[Cell, ...]] = []
    for number, phase in enumerate(found.log.phases, 1):
        if found.within(phase).sum() < LEAST_REQUESTS:
            continue
        first, last = np.searchsorted(at, [phase.start_s, phase.end_s])
        inside = (simulated[0] > at[first]) & (simulated[0] <= at[last])
        for part, values in zip(("queue", "prefill", "decode"), simulated[1:], strict=True):
            seconds, count = (
                float(np.diff(found.counters[f"vllm:request_{part}_time_seconds_{total}"][[first, last]])[0])
                for total in ("sum", "count")
            )
            measured, mine = 1000 * seconds / count, 1000 * float(values[inside].mean())
            rows.append((
                phase.name, kind(number), int(count), part, round(measured, 2), round(mine, 2),
                round(mine - measured, 2),
            ))  # fmt: skip
    return Table(
        "recording_engine_times",
        "The server's own histograms: mean times of the requests that finished in a phase (ms)",
        ("phase", "", "n", "time", "measured", "simulated", "difference"),
        tuple(rows),
        n=sum(row[2] for row in rows if isinstance(row[2], int)) // 3,
        free=len(found.fitted.relative_errors),
        remarks=("Not fitted to, and what the API server adds is not in them: the fit sees only the sum of both, and "
                 "gives the front end a part of what the engine spends on a prompt.",),
    )  # fmt: skip


def _finished(found: Comparison) -> tuple[Floats, ...]:
    """Of each simulated request: when it finished, and its times in the queue, in prefill and in decoding."""
    engine = CompiledEngine(found.fitted.engine)
    events = []
    for request in found.log.requests:
        events += engine.advance(request.arrival_at)
        engine.add(request)
    events += engine.advance(float("inf"))
    rows = [
        (each.at, each.first_scheduled_at - each.queued_at, each.first_token_at - each.first_scheduled_at,
         each.at - each.first_token_at)
        for each in events if isinstance(each, Finished)
    ]  # fmt: skip
    return tuple(np.array(rows).T)


def _overload_by_pace(found: Comparison) -> Table:
    phase = found.log.phases[OVERLOAD - 1]
    inside = found.within(phase)
    own = _own_pace(found, phase)
    rows: list[tuple[Cell, ...]] = [("measured", *_overload(found.log.times, inside))]
    for pace in (*PACES, own):
        engine = slowed(found.fitted.engine, pace)
        label = f"iterations {percent(pace - 1)}" + (" (its own pace)" if pace is own else "")
        rows.append((label, *_overload(replay(engine, found.log.requests)[0], inside)))
    followed, _ = paced(found.fitted.engine, found.log, _followed_pace(found, own), found.measured.at)
    rows.append(("its own pace, second by second", *_overload(followed, inside)))
    told = fit_profile([found.log.until(phase.end_s, "the overload too")], found.base).engine
    rows.append(("fitted to the overload too", *_overload(replay(told, found.log.requests)[0], inside)))
    return Table(
        "recording_overload_by_pace",
        "The overload, if all iterations were shorter or longer (medians and P95, ms)",
        ("engine", "TTFT P50", "TTFT P95", "TPOT P50", "E2E P50"),
        tuple(rows),
        n=int(inside.sum()),
        free=len(found.fitted.relative_errors),
        remarks=("A diagnosis, not a prediction: the rows with its own pace know the server's speed in that phase, and "
                 "show what is left to the engine's rules once the pace is right. Even a fit that has seen the "
                 "overload does not have its queue: no single pace does.",),
    )  # fmt: skip


def _followed_pace(found: Comparison, otherwise: float) -> Floats:
    """How much slower than the fitted engine the server was in each step of the overload, as told by the tokens that
    came out while requests waited; ``otherwise`` far from such times."""
    edges, rates = _full_rates(found)
    known = np.isfinite(rates) & (rates > 0)
    middles = ((edges[1:] + edges[:-1]) / 2)[known]
    steps = steps_of(found.log)
    phase = found.log.phases[OVERLOAD - 1]
    slower = np.interp(steps, middles, _simulated_full_rate(found) / rates[known])
    inside = (steps >= phase.start_s) & (steps < phase.end_s)
    return np.where(inside, slower, otherwise)


def slowed(engine: EngineProfile, factor: float) -> EngineProfile:
    """All terms of the iteration times ``factor``; the front end stays."""
    terms = ("base_s", "s_per_prefill_token", "s_per_decode_sequence", "s_per_kv_token")
    return changed(engine, {name: factor * getattr(engine, name) for name in terms})


def _overload(times: Times, inside: Chosen) -> tuple[Cell, ...]:
    ttft, tpot, e2e = times.ttft[inside], times.tpot[inside], times.e2e[inside]
    return tuple(
        round(1000 * float(value), 2)
        for value in (np.median(ttft), np.percentile(ttft, 95), np.nanmedian(tpot), np.median(e2e))
    )
