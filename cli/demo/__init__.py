"""The demo: the live stack on this machine, a load, a view, and a verdict."""
