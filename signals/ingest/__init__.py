"""Adapters that read measurements."""
