"""How requests find their endpoint. Needs no numpy: the command line reads it before it knows what is to be done."""

from __future__ import annotations

from enum import StrEnum


class Routing(StrEnum):
    """How a pool's requests find their endpoint.

    LEAST_LOADED: the fewest requests in flight at that instant, the least recently chosen among equals, as the
    reference gateway does. ROUND_ROBIN: one after the other. PREFIX_AFFINE: the endpoint that had the last request of
    the same prefix group, unless it has both more than ``slack`` requests more in flight than the least loaded and more
    than half as many again; then the least loaded takes the group over. Requests without a group go to the least
    loaded.

    The last is the ``cache_aware`` rule of the gateways of SGLang and vLLM (``--balance-abs-threshold 64``,
    ``--balance-rel-threshold 1.5``), except that they measure the busiest endpoint where this measures the one with the
    prefix, and that they find the prefix in a tree of past prompts where this takes the trace's word.
    """

    LEAST_LOADED = "least-loaded"
    ROUND_ROBIN = "round-robin"
    PREFIX_AFFINE = "prefix-affine"


AFFINITY_SLACK = 64
"""Default of both gateways."""
