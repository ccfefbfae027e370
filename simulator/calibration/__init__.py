"""From measurements to an engine profile: readers of what was measured, the same loads replayed through the simulated
engine, and a fit that says what the measurements could not tell.
"""
