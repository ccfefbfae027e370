"""How Kafka is spoken to: a site's settings as aiokafka's arguments, and aiokafka's errors as ours.

aiokafka is an extra, imported by this package and by the worker alone. It logs each failed attempt by itself;
here every error reaches whoever asked, with words, so its own lines are silenced.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from broker.model.errors import ConfigError, LeadershipRefused, LogError, LogUnreachable, MessageTooLarge

try:
    import aiokafka
    from aiokafka import errors as kafka_errors
    from aiokafka.admin import AIOKafkaAdminClient
    from aiokafka.conn import create_conn
except ModuleNotFoundError as error:
    if error.name != "aiokafka":
        raise
    raise ConfigError("a log in Kafka needs aiokafka: pip install 'tidegate[kafka]'", field="log.kind") from None

logging.getLogger("aiokafka").setLevel(logging.CRITICAL)

REQUEST_TIMEOUT_S = 5.0
"""Of one request; what is retried is bounded by whoever waits for all of it."""
START_TIMEOUT_S = 15.0
STOP_TIMEOUT_S = 5.0
RETRY_BACKOFF_MS = 50

_LOST = (
    kafka_errors.KafkaTimeoutError,
    kafka_errors.KafkaUnavailableError,
    kafka_errors.NoBrokersAvailable,
    kafka_errors.NodeNotReadyError,
    kafka_errors.RequestTimedOutError,
    OSError,
    TimeoutError,
)
_NOT_WHO_THEY_SAY = (
    kafka_errors.AuthenticationFailedError,
    kafka_errors.AuthenticationMethodNotSupported,
    kafka_errors.IllegalSaslStateError,
    kafka_errors.SaslAuthenticationFailed,
    kafka_errors.UnsupportedSaslMechanismError,
)
_NOT_ALLOWED = (
    kafka_errors.ClusterAuthorizationFailedError,
    kafka_errors.GroupAuthorizationFailedError,
    kafka_errors.TopicAuthorizationFailedError,
    kafka_errors.TransactionalIdAuthorizationFailed,
)
_TRANSLATED = (
    kafka_errors.KafkaError, kafka_errors.IllegalOperation, AssertionError, OSError, TimeoutError, UnicodeDecodeError,
)  # fmt: skip
_TOO_FEW_NODES = (kafka_errors.NotEnoughReplicasError, kafka_errors.NotEnoughReplicasAfterAppendError)
_TOO_LARGE = (kafka_errors.MessageSizeTooLargeError, kafka_errors.RecordListTooLargeError)
_DEPOSED = (kafka_errors.ProducerFenced, kafka_errors.InvalidProducerEpoch)


@dataclass(frozen=True, slots=True)
class Tls:
    """``authority``: file of the certificate authority, None for the system's. ``certificate`` and ``key``: who we are,
    where the cluster asks for it."""

    authority: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, slots=True)
class Sasl:
    """``mechanism``: ``PLAIN``, ``SCRAM-SHA-256`` or ``SCRAM-SHA-512``."""

    mechanism: str
    user: str
    password: str

    def __repr__(self) -> str:
        return f"Sasl({self.mechanism!r}, {self.user!r}, '***')"


@dataclass(frozen=True, slots=True)
class Connection:
    """How a cluster is reached. ``compression`` is aiokafka's name of it, None for none."""

    servers: tuple[str, ...]
    client_id: str = "tidegate"
    tls: Tls | None = None
    sasl: Sasl | None = None
    compression: str | None = "lz4"

    def __str__(self) -> str:
        return ", ".join(self.servers)

    @property
    def protocol(self) -> str:
        """Kafka's name of how the listener speaks."""
        transport = "PLAINTEXT" if self.tls is None else "SSL"
        return transport if self.sasl is None else f"SASL_{transport}"

    def arguments(self) -> dict[str, Any]:
        """What every client of aiokafka takes. Raises ``ConfigError`` for a certificate that cannot be used."""
        common: dict[str, Any] = {
            "bootstrap_servers": list(self.servers),
            "client_id": self.client_id,
            "request_timeout_ms": round(1e3 * REQUEST_TIMEOUT_S),
            "retry_backoff_ms": RETRY_BACKOFF_MS,
        }
        return common | self._security()

    def _security(self) -> dict[str, Any]:
        security: dict[str, Any] = {"security_protocol": self.protocol}
        if self.tls is not None:
            security["ssl_context"] = _ssl_context(self.tls)
        if self.sasl is not None:
            security["sasl_mechanism"] = self.sasl.mechanism
            security["sasl_plain_username"] = self.sasl.user
            security["sasl_plain_password"] = self.sasl.password
        return security

    def consumer(self, *topics: str, **arguments: Any) -> Any:
        """An ``AIOKafkaConsumer`` that sees committed messages only unless told otherwise, not yet started."""
        given = {"isolation_level": "read_committed", "enable_auto_commit": False, "auto_offset_reset": "earliest"}
        return aiokafka.AIOKafkaConsumer(*topics, **self.arguments() | given | arguments)

    def producer(self, **arguments: Any) -> Any:
        """An ``AIOKafkaProducer`` whose messages are acknowledged by all replicas in sync, not yet started."""
        return aiokafka.AIOKafkaProducer(**self.arguments(), acks="all", compression_type=self.compression, **arguments)

    def admin(self) -> Any:
        """An ``AIOKafkaAdminClient``, not yet started."""
        return AIOKafkaAdminClient(**self.arguments())


def _ssl_context(tls: Tls) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=tls.authority)
        if tls.certificate is not None:
            context.load_cert_chain(tls.certificate, tls.key)
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(str(path) for path in (tls.authority, tls.certificate, tls.key) if path is not None)
        raise ConfigError(
            f"the certificates of Kafka ({files}) cannot be used: {error}; name PEM files that exist, a key beside its "
            "certificate",
            field="log.tls",
        ) from None
    return context


@contextlib.contextmanager
def translated(connection: Connection) -> Iterator[None]:
    """Errors of aiokafka and of the network become ours."""
    try:
        yield
    except _TRANSLATED as error:
        raise translate(connection, error) from None


def translate(connection: Connection, error: BaseException) -> LogError:
    """``error`` as what, where and how to mend it."""
    where, told = f"Kafka at {connection}", _words(error)
    match error:
        case _ if isinstance(error, _DEPOSED):
            return LeadershipRefused(f"{where} has another broker as leader by now: this broker must stop")
        case _ if isinstance(error, _NOT_WHO_THEY_SAY):
            user = "a client without a name" if connection.sasl is None else f"user {connection.sasl.user!r}"
            return LogUnreachable(
                f"{where} refuses {user} ({told}): check log.sasl (mechanism, user) and the password in "
                "TIDEGATE_KAFKA_PASSWORD or its file"
            )
        case _ if isinstance(error, _NOT_ALLOWED):
            return LogUnreachable(
                f"{where} does not allow this broker what it needs ({told}): give its user rights to the cluster's "
                "topics, group and transactional id; `tidegate doctor kafka` names them"
            )
        case kafka_errors.UnknownTopicOrPartitionError():
            return LogUnreachable(
                f"{where} lacks a topic ({told}): make it with `tidegate topics init`, and look at all with "
                "`tidegate topics check`"
            )
        case _ if isinstance(error, _TOO_FEW_NODES):
            return LogUnreachable(
                f"{where} has too few nodes alive to keep what is written ({told}): start those that are down; the log "
                "goes on by itself"
            )
        case _ if isinstance(error, _TOO_LARGE):
            return MessageTooLarge(
                f"{where} refuses a message as too large ({told}): let log.message_size and the topics' "
                "max.message.bytes be the same, see `tidegate topics check`"
            )
        case ssl.SSLCertVerificationError():
            return LogUnreachable(
                f"{where} shows a certificate that is not trusted ({told}): name the authority that signed it in "
                "log.tls.ca_file, and the servers as it names them in log.bootstrap_servers"
            )
        case ssl.SSLError() | ConnectionResetError() | kafka_errors.KafkaConnectionError():
            return LogUnreachable(
                f"{where} ends the connection ({told}): it may be going down, or it expects something else there than "
                f"{connection.protocol}; look at log.tls, log.sasl and the port"
            )
        case AssertionError():
            # Back from a pause, a node names no node at all for a moment; aiokafka takes that for its caller's mistake.
            return LogUnreachable(
                f"{where} names no node that answers ({told}); the log goes on by itself once one does"
            )
        case UnicodeDecodeError():
            return LogError(
                f"{where} holds a message with a header that aiokafka cannot read ({told}): let whoever wrote it name "
                "its headers in UTF-8"
            )
        case _ if isinstance(error, _LOST):
            return LogUnreachable(
                f"{where} does not answer ({told}): see that it runs and that log.bootstrap_servers is right; the log "
                "goes on by itself once it answers"
            )
    return LogError(f"{where}: {told}")


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__


@contextlib.asynccontextmanager
async def started(connection: Connection, client: Any) -> AsyncIterator[Any]:
    """``client`` (consumer, producer or admin) from its start to its end. Raises ``LogError`` if it does not start."""
    await start(connection, client)
    try:
        yield client
    finally:
        await stop(client)


async def start(connection: Connection, client: Any, timeout_s: float = START_TIMEOUT_S) -> None:
    """Raises ``LogError``, and has closed ``client`` then."""
    try:
        async with asyncio.timeout(timeout_s):
            await client.start()
    except BaseException as error:
        await abandon(client)
        if isinstance(error, kafka_errors.KafkaConnectionError):
            error = await _reason(connection) or error
        with translated(connection):
            raise error from None


async def stop(client: Any) -> None:
    """Close ``client`` in bounded time; a Kafka that is away does not keep anybody from ending."""
    close = client.close if isinstance(client, AIOKafkaAdminClient) else client.stop
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await close()
    except (Exception, asyncio.CancelledError) as error:
        await abandon(client)
        # aiokafka passes on that a task of its own was cancelled, as if we were.
        if isinstance(error, asyncio.CancelledError) and (task := asyncio.current_task()) and task.cancelling():
            raise


async def abandon(client: Any) -> None:
    """End a producer or consumer that may never answer again. Its own ``stop`` waits for what it has under way, and
    some of that asks again for ever: its tasks are ended instead, which are known by what they are methods of."""
    inside = {id(part) for part in (client, *(getattr(client, name, None) for name in _PARTS)) if part is not None}
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task() and id(_owner(task)) in inside]
    for task in tasks:
        task.cancel()
    await asyncio.wait([*tasks, asyncio.create_task(asyncio.sleep(0))], timeout=STOP_TIMEOUT_S)
    client._closed = True
    for batches in getattr(getattr(client, "_message_accumulator", None), "_batches", {}).values():
        for batch in batches:
            batch._drain_waiter.add_done_callback(look_at)
    with contextlib.suppress(Exception):
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await (client.client if hasattr(client, "client") else client._client).close()


def cause_of(producer: Any, error: BaseException) -> BaseException:
    """Within a transaction that has failed meanwhile aiokafka refuses to send, and does not say why: a broker that was
    deposed amid a step ended as if by a mistake of its own."""
    ended: asyncio.Future[None] = producer._txn_manager.wait_for_transaction_end()
    if isinstance(error, kafka_errors.IllegalOperation) and ended.done() and not ended.cancelled():
        return ended.exception() or error
    return error


def look_at(future: asyncio.Future[Any]) -> None:
    """An error that is told in other words is not left to be complained about."""
    if not future.cancelled():
        future.exception()


_PARTS = ("client", "_client", "_coordinator", "_fetcher", "_message_accumulator", "_sender")


def _owner(task: asyncio.Task[Any]) -> Any:
    frame = getattr(task.get_coro(), "cr_frame", None)
    return None if frame is None else frame.f_locals.get("self")


async def _reason(connection: Connection) -> Exception | None:
    """Why no server lets us in: aiokafka tells only that none did."""
    security = connection._security()
    for server in connection.servers:
        host, _, port = server.rpartition(":")
        try:
            opened = await create_conn(
                host.strip("[]"), int(port), request_timeout_ms=round(1e3 * REQUEST_TIMEOUT_S), **security
            )
        except (kafka_errors.KafkaError, OSError, TimeoutError) as error:
            return error
        opened.close()
    return None
