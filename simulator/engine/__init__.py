"""Models of the inference engine: continuous batching after vLLM's rules, in simulated time.

``profile`` says how fast and how large an engine is, ``requests`` what goes in and comes out, ``reference`` defines
the behaviour one iteration at a time, ``coalesced`` computes the same in closed form over runs of iterations.
"""
