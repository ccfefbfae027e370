"""The single owner of one model's measurements: pure, in event time, bounded."""

from signals.window.window import SignalWindow

__all__ = ["SignalWindow"]
