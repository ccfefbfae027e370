"""Models of the inference engine."""
