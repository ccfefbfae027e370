"""A vLLM-compatible server over the engine model."""
