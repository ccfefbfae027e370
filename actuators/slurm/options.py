"""What a pool of kind ``slurm`` says of its jobs: ``PoolSpec.options`` as a typed value. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from broker.model import wire
from broker.model.errors import ConfigError, WireError
from broker.model.spec import PoolSpec


@dataclass(frozen=True, slots=True)
class ContainerOptions:
    """An image to run engines in: ``PROGRAM exec ARGUMENTS --bind BIND IMAGE``."""

    image: str
    program: str = "apptainer"
    arguments: tuple[str, ...] = ("--nv",)
    binds: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class JobOptions:
    """How jobs are made, beyond what the simulator knows of them: ``job`` of a pool in ``site.yaml``, which see."""

    broker_url: str = ""
    broker_ca: str | None = None
    directory: str = ""
    template: str | None = None
    container: ContainerOptions | None = None
    modules: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    prolog: tuple[str, ...] = ()
    weights: str | None = None
    python: str = "python3"
    cpus_per_gpu: int | None = None
    memory_per_gpu_mib: int | None = None
    reservation: str | None = None
    licenses: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    notice_s: float | None = None
    front: bool = True
    socket_option: str | None = None
    address: str | None = None
    ports: tuple[int, int] = (20000, 29999)


@dataclass(frozen=True, slots=True)
class SlurmOptions:
    """All that a pool of kind ``slurm`` says."""

    partition: str
    time_limit_s: float
    gpus_per_node: int | None = None
    gpu_type: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    job: JobOptions = JobOptions()


def options_of(pool: PoolSpec) -> SlurmOptions:
    """Raises ``ConfigError`` for what ``broker.app.settings`` would not have let through."""
    try:
        options: SlurmOptions = wire.decode(SlurmOptions, dict(pool.options))
    except WireError as error:
        raise ConfigError(error.problem, field=f"pools.{pool.pool_id}.{error.field}") from None
    return options
