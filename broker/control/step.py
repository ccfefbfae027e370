"""One step of the broker: a pure function of its state and what was observed."""
