"""How well the simulator agrees with measurements, each figure beside its null; ``python -m accuracy``."""
