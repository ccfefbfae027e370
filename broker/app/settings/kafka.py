"""A log in Kafka: how the cluster is reached, and how its topics are laid out."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from broker.app.settings.fields import Called, Duration, LocalPath, Section, Size
from broker.app.settings.words import Misplaced
from broker.log.kafka.topics import DEFAULT_MESSAGE_BYTES, DEFAULT_PARTITIONS, LEAST_MESSAGE_BYTES, Layout


def _servers(value: Any) -> Any:
    """``a:9092,b:9092``, or a list of such. Kafka's port is 9092 where none is named."""
    listed = value.split(",") if isinstance(value, str) else value
    if not isinstance(listed, list) or not listed or not all(isinstance(server, str) for server in listed):
        raise ValueError(f"{value!r} names no servers; write kafka1:9092,kafka2:9092 or a list")
    return [_server(server.strip()) for server in listed]


def _server(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, "9092"
    if (
        not host
        or "/" in text
        or (":" in host and not host.endswith("]"))
        or not port.isdecimal()
        or not 0 < int(port) < 65536
    ):
        raise ValueError(f"{text!r} is no server; write HOST:PORT, as kafka1:9092")
    return f"{host}:{port}"


Servers = Annotated[
    list[str],
    BeforeValidator(_servers),
    WithJsonSchema(
        {"anyOf": [{"type": "string", "minLength": 1}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}
    ),
    Called("servers, as `kafka1:9092,kafka2:9092` or a list"),
]


class KafkaTls(Section):
    """Encryption on the way to Kafka."""

    ca_file: LocalPath | None = Field(
        default=None, description="File with the authority that signed the servers' certificates; none: the system's."
    )
    certificate_file: LocalPath | None = Field(
        default=None, description="File with the broker's own certificate, where the servers ask for one."
    )
    key_file: LocalPath | None = Field(default=None, description="File with its key, if not in the same file.")

    @model_validator(mode="after")
    def _key_of_a_certificate(self) -> KafkaTls:
        if self.key_file is not None and self.certificate_file is None:
            raise Misplaced("is a key without a certificate; name certificate_file too", "key_file")
        return self


class KafkaSasl(Section):
    """Who the broker is to Kafka. The password comes from `TIDEGATE_KAFKA_PASSWORD`, else from the file."""

    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        default="SCRAM-SHA-512", description="How the password is shown; `PLAIN` wants `tls` beside it."
    )
    user: str = Field(min_length=1, description="The user's name.")
    password_file: LocalPath | None = Field(default=None, description="File with the password.")


class KafkaLog(Section):
    """The broker's memory in a Kafka cluster, see [kafka.md](kafka.md). Several brokers may be started on it: one
    leads, the others stand by."""

    kind: Literal["kafka"] = Field(description="`kafka`: topics of a cluster.")
    bootstrap_servers: Servers = Field(description="Some of the cluster's servers.")
    topic_prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,200}$")] | None = Field(
        default=None, description="How the topics' names begin; by default `tidegate.` and the cluster's name."
    )
    partitions: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=DEFAULT_PARTITIONS, description="Partitions of the topics that are keyed by model."
    )
    replication: Annotated[int, Field(ge=1, le=100)] | None = Field(
        default=None, description="Copies of each topic; by default three, or as many as there are servers."
    )
    message_size_bytes: Size = Field(
        default=DEFAULT_MESSAGE_BYTES, description="The largest message; what is larger is cut into several."
    )
    compression: Literal["none", "gzip", "lz4", "snappy", "zstd"] = Field(
        default="lz4", description="How messages are compressed."
    )
    client_id: str = Field(default="tidegate", min_length=1, description="The name that Kafka's own logs show.")
    tls: KafkaTls | None = Field(default=None, description="Encryption; none: in the clear.")
    sasl: KafkaSasl | None = Field(default=None, description="User and password; none: without.")
    session_s: Annotated[Duration, Field(ge=6)] = Field(  # the least that Kafka grants, unless it was told otherwise
        default=6.0, description="A broker silent for this long is taken for dead, and another may lead."
    )
    lease_s: Annotated[Duration, Field(ge=1)] = Field(
        default=5.0,
        description="How long after its last commit a broker may still act; its successor waits that long.",
    )
    patience_s: Annotated[Duration, Field(ge=1)] = Field(
        default=10.0, description="How long a commit may take before the broker says that Kafka fails it."
    )
    retention_s: Annotated[Duration, Field(gt=0)] = Field(
        default=30 * 86400.0, description="How long decisions and records are kept."
    )

    @model_validator(mode="after")
    def _room_for_messages(self) -> KafkaLog:
        if self.message_size_bytes < LEAST_MESSAGE_BYTES:
            raise Misplaced(f"is too little; the least is {LEAST_MESSAGE_BYTES >> 10}KiB", "message_size")
        return self

    def layout(self, cluster: str) -> Layout:
        """The topics of the cluster of this name."""
        return Layout(
            self.topic_prefix or f"tidegate.{cluster}", self.partitions, self.replication, self.message_size_bytes
        )
