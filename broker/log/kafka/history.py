"""A log of another kind moved into topics where no broker has begun.

The steps go first, in many transactions, under a lease that says so; the state follows in the last one, and only then
is there anything that a broker goes on from. Whoever finds such a lease knows of an import that did not end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from broker.control.replay import beginning
from broker.log.codec import step_to_text
from broker.log.kafka.messages import Message, checkpoint_message, history_messages
from broker.log.kafka.writer import KafkaWriter
from broker.model.ports import Log

CHUNK = 4 * 2**20
"""Characters that are written in one transaction."""


async def write_history(writer: KafkaWriter, source: Log, moved: Callable[[int], None]) -> None:
    """Checkpoints, and steps with their decisions. ``moved`` is told the number of each step. Raises ``LogError``."""
    start = await beginning(source)
    chunk: list[Message] = []

    async def add(messages: Iterable[Message], limit: int = CHUNK) -> None:
        nonlocal chunk
        chunk += messages
        if sum(len(message.text or "") for message in chunk) > limit:
            full, chunk = chunk, []
            await writer.write(lambda ledger: ledger.as_it_was(full))

    async for checkpoint in source.checkpoints():
        if checkpoint.number >= start.number:
            await add([checkpoint_message(checkpoint, writer.lease.epoch)])
    async for record in source.steps(after=start.number):
        await add(history_messages(record, step_to_text(record)))
        moved(record.number)
    await add([], limit=0)
