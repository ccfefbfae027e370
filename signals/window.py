"""The single owner of one model's measurements: pure, in event time, bounded."""
