"""Models of the inference engine: continuous batching after vLLM's rules, in simulated time.

``profile`` says how fast and how large an engine is, ``requests`` what goes in and comes out, ``ticks`` the time that
is counted. ``reference`` defines the behaviour one iteration at a time. ``kernel`` computes the same, compiled, over
runs of iterations for a whole fleet, on the arrays of ``layout``; ``fleet`` drives it with numpy arrays, ``single`` is
one of its engines behind the reference's interface.
"""
