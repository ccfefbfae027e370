"""Slurm pools put together from their settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from actuators.base import Actuator
from actuators.slurm.actuator import SlurmActuator
from actuators.slurm.client import SiteFacts, SlurmClient
from actuators.slurm.commands import CommandClient
from actuators.slurm.job import JobSpec
from actuators.slurm.rest.client import RestClient
from actuators.slurm.rest.tokens import Tokens, from_command, from_file
from actuators.slurm.runner import LocalRunner
from actuators.slurm.script import fitted_job
from actuators.slurm.ssh import Login, SshRunner
from broker.app.settings.slurm import CommandsTransport, RestTransport, SlurmPool, SshTransport, TransportSettings
from broker.model.agents import Agents
from broker.model.errors import LeadershipRefused
from broker.model.identity import registration_token
from broker.model.plan import Launch
from broker.model.ports import Clock
from broker.model.replica import ReplicaPhase


def slurm_client(transport: TransportSettings, clock: Clock) -> SlurmClient:
    match transport:
        case CommandsTransport():
            return CommandClient(LocalRunner(), clock)
        case SshTransport():
            login = Login(transport.host, transport.user, transport.known_hosts, transport.port, tuple(transport.keys))
            return CommandClient(SshRunner(login), clock)
        case RestTransport():
            command = from_command(LocalRunner(), transport.token_command)
            source = command if transport.token_file is None else from_file(transport.token_file)
            return RestClient(transport.url, Tokens(source, clock), clock, user=transport.user, parser=transport.parser)


def slurm_actuator(
    pool_id: str, pool: SlurmPool, *, cluster: str, secret: bytes, agents: Agents, clock: Clock,
    log_ids: Sequence[str], recorded: Mapping[str, ReplicaPhase], acts: bool = True,
    checkpoint: Callable[[str], None] = lambda name: None,
) -> SlurmActuator:  # fmt: skip
    spec = pool.to_spec(pool_id)

    def render(launch: Launch, facts: SiteFacts, now: float) -> JobSpec:
        token = registration_token(secret, launch.action_id)
        return fitted_job(launch, spec, facts, now, token=token, log_id=log_ids[0] if log_ids else "")

    client = slurm_client(pool.transport, clock)
    return SlurmActuator(
        spec, client, agents, render, cluster=cluster, clock=clock, log_ids=log_ids, recorded=recorded,
        poll_s=pool.poll_s, acts=acts, checkpoint=checkpoint,
    )  # fmt: skip


async def require_alone(actuators: Mapping[str, Actuator]) -> None:
    """Raises ``LeadershipRefused`` where jobs of another log serve under this cluster's name. For a log that is new: it
    has an empty registry, and gateways that took it would lose what serves them."""
    for pool_id, actuator in actuators.items():
        if isinstance(actuator, SlurmActuator) and (words := await actuator.others()):
            raise LeadershipRefused(f"pools.{pool_id} of site.yaml: {words}")
