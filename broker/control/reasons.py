"""The reason codes that the core itself gives; policies add their own. Codes are stable: dashboards count them."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    STEADY = "steady"
    HOLD_NO_SIGNALS = "hold_no_signals"
    POLICY_FAILED = "policy_failed"
    OVERRIDE_TARGET = "override_target"
    OVERRIDE_HOLD = "override_hold"
    SUPPLY_ON_ITS_WAY = "supply_on_its_way"
    STABILISING_OUT = "stabilising_out"
    STABILISING_IN = "stabilising_in"
    MAX_STEP_OUT = "max_step_out"
    MAX_STEP_IN = "max_step_in"
    MINIMUM = "minimum"
    MAXIMUM = "maximum"
    PAUSED = "paused"
    RETIRED = "retired"
    OBSERVE_MODE = "observe_mode"
    BREAKER_OPEN = "breaker_open"
    START_RATE = "start_rate"
    STOP_RATE = "stop_rate"
    CONCURRENT_LOADS = "concurrent_loads"
    NO_POOL = "no_pool"
    RENEWAL = "renewal"
