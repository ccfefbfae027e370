"""The reference OpenAI-compatible gateway."""
