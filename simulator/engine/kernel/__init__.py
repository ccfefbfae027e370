"""The engine of ``reference``, compiled, computed over runs of iterations at once, for a whole fleet of replicas.

While nothing is prefilled, admitted, preempted or finished, each iteration decodes the same sequences: it lasts a
constant longer than the one before (the KV tokens grow by one per sequence), and the blocks it takes follow from how
many sequences are at which position in their last block. Such a run of k iterations is one closed form; about three
runs per request remain. Times are whole ticks, so the results are equal to the reference's, not nearly equal.

A replica's decode clock counts its iterations. A decoding sequence is described by the clock at which it finishes and
by its offset (tokens in cache minus clock); neither changes while it decodes, so an iteration touches no sequence.

Replicas are advanced one by one, only when somebody looks: ``advance(state, r, limit)`` leaves replica ``r`` as it is
at ``limit``, never later, so that what routing reads are the loads of that instant and not of an iteration's end that
is still to come. Until ``changes_at`` nothing ends, and nobody need look.

``entry_points`` is what Python calls; it compiles everything into one function, apart from ``end_runs``.
"""
