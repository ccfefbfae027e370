"""The single owner of one model's measurements: pure, in event time, bounded."""

from signals.window.window import SKEW_TOLERANCE_S, SignalWindow, retention_s

__all__ = ["SKEW_TOLERANCE_S", "SignalWindow", "retention_s"]
