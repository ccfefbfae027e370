"""The contract of every actuator: the thin shell that turns intents into processes, jobs or pods.

    observe() -> PoolSnapshot      what is there and provably ours; a failed listing is ``known=False``, never empty
    start(launch) -> Receipt       returns at once; the same ``action_id`` again has no second effect
    stop(order) -> Receipt         returns at once; "already gone" is ACCEPTED; never touches what is not ours

No waiting inside, no policy, no retries: time-outs and repetition belong to the core, which sees everything that
happens as observations. What goes wrong is raised as an ``ActuatorError``; the runner makes it a receipt.
"""

from __future__ import annotations

from typing import Protocol

from broker.model.observation import PoolSnapshot, Receipt
from broker.model.plan import Launch, Stop


class Actuator(Protocol):
    """One pool's hands and eyes."""

    @property
    def pool_id(self) -> str: ...

    async def observe(self) -> PoolSnapshot:
        """List our replicas, and nothing that is not provably ours.

        PENDING, STARTING, STOPPING; ``url`` once it is confirmed that the replica listens there. Ended ones stay, GONE
        if they were told to exit and FAILED otherwise whatever the exit code (None if nobody could learn it), for an
        hour. A listing that fails is ``known=False``, it does not raise.
        """
        ...

    async def start(self, launch: Launch) -> Receipt:
        """Begin one replica, unless ``launch.action_id`` has had its one process, living or ended: then ACCEPTED.

        Raises ``TransientError`` or ``CapacityUnavailable`` (nothing was begun), or ``ActionRejected``.
        """
        ...

    async def stop(self, order: Stop) -> Receipt:
        """Tell one replica to exit, gently or at once as ``order.mode`` says; gently once per ``action_id``.

        ACCEPTED for what is gone or was never there. Raises ``TransientError`` or ``ActionRejected``.
        """
        ...

    async def close(self) -> None:
        """Let go of handles. Replicas live on: they are found again by name."""
        ...
