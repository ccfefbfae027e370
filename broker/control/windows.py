"""Each model's window, kept apart from the others: what goes wrong in one keeps no other model from its snapshots."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from broker.control.answers import in_words
from broker.model.signals import MetricSample, RequestSummary
from broker.model.snapshot import ModelSnapshot, WindowNeed
from broker.model.window_state import WindowState
from signals.window import SignalWindow

FAULT_OVER_AFTER_S = 600.0
"""A window without a fault for this long is sound again; the next fault is news."""

TellFault = Callable[[str, Exception], None]
"""Told of the model whose window failed, or could not be laid out for a policy, and why: once, not at each sample that
makes it fail again."""


def raise_fault(model_id: str, error: Exception) -> None:
    """For whoever wants a mistake of ours to stop everything, as a simulation does."""
    raise error


@dataclass(slots=True)
class _Kept:
    """A window with what it takes to make it anew. ``blind``: it failed since the last snapshot."""

    window: SignalWindow
    needs: tuple[WindowNeed, ...]
    patience_s: float
    expected: tuple[str, ...] | None = None
    failed_at: float = -math.inf
    failed_with: str = ""
    blind: bool = False

    def problem(self, now: float) -> str:
        """What its snapshots tell for as long as it may lack what it lost."""
        if now >= self.failed_at + self.patience_s:
            return ""
        return f"the window of its signals failed and was begun anew: {self.failed_with}"


class Windows:
    """All windows by model. A window that fails is dropped with all that it held, since what made it fail would do so
    again: a sum that overflowed once stopped every model of a site. The model's next snapshot knows nothing and says
    why, and those within its patience say so too; a new window fills from the next sample on, as after a start of the
    broker."""

    def __init__(self, tell_fault: TellFault) -> None:
        self._kept: dict[str, _Kept] = {}
        self._tell_fault = tell_fault

    def configure(self, model_id: str, needs: tuple[WindowNeed, ...], patience_s: float, phase_s: float) -> None:
        """Begin a model's window, or change what is wanted of it."""
        kept = self._kept.get(model_id)
        if kept is None:
            window = SignalWindow(model_id, needs, patience_s, phase_s=phase_s)
            self._kept[model_id] = _Kept(window, needs, patience_s)
        else:
            kept.needs, kept.patience_s = needs, patience_s
            kept.window.reconfigure(needs, patience_s)

    def drop(self, model_id: str) -> None:
        self._kept.pop(model_id, None)

    def expect(self, model_id: str, replica_ids: Iterable[str], now: float) -> None:
        kept = self._kept[model_id]
        kept.expected = tuple(replica_ids)
        kept.window.expect(kept.expected, now)

    def observe(self, sample: MetricSample | RequestSummary) -> bool:
        """True if a snapshot of the sample's model is due at once. Unknown models are ignored."""
        kept = self._kept.get(sample.model_id)
        if kept is None:
            return False
        try:
            return kept.window.observe(sample)
        except Exception as error:
            self._failed(kept, error, sample.received_at)
            return False

    def snapshot(self, model_id: str, at: float, received_at: float) -> ModelSnapshot:
        """The model at ``at``, but not before the replicas that it should have by now: a worker that began told a true
        zero of half a second ago, when no replica was ready yet, of two that were, and one of them was drained for it.
        One that knows nothing if its window failed."""
        kept = self._kept[model_id]
        at = min(max(at, kept.window.expected_since), received_at)
        if not kept.blind:
            try:
                snapshot = kept.window.snapshot(at, received_at)
            except Exception as error:
                self._failed(kept, error, received_at)
            else:
                problem = kept.problem(received_at)
                return replace(snapshot, problem=problem) if problem else snapshot
        kept.blind = False
        kept.window.sequence += 1
        return ModelSnapshot(model_id, kept.window.sequence - 1, at, received_at, problem=kept.problem(received_at))

    def states(self) -> Iterator[WindowState]:
        """What is settled of each window, for a successor."""
        for kept in self._kept.values():
            if (state := kept.window.state()) is not None:
                yield state

    def resume(self, state: WindowState) -> None:
        """See ``SignalWindow.resume``. What the last owner told of a model that is here no more is ignored."""
        kept = self._kept.get(state.model_id)
        if kept is None:
            return
        try:
            kept.window.resume(state)
        except Exception as error:
            self._failed(kept, error, state.settled_at)

    def _failed(self, kept: _Kept, error: Exception, now: float) -> None:
        old = kept.window
        kept.window = SignalWindow(
            old.model_id, kept.needs, kept.patience_s, phase_s=old.phase_s, first_sequence=old.sequence
        )
        if kept.expected is not None:
            kept.window.expect(kept.expected, now)
        words = in_words(error)
        known = words == kept.failed_with and now < kept.failed_at + FAULT_OVER_AFTER_S
        kept.failed_at, kept.failed_with, kept.blind = now, words, True
        if not known:
            self._tell_fault(old.model_id, error)
