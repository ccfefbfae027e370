"""Settings, composition root, runtime and HTTP API of the broker."""
