"""The simulator, and the emulator: a live process over the same engine model."""
