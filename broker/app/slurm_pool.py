"""Slurm pools put together from their settings."""

from __future__ import annotations

from collections.abc import Callable

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
from broker.model.identity import registration_token
from broker.model.plan import Launch
from broker.model.ports import Clock


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
    checkpoint: Callable[[str], None] = lambda name: None,
) -> SlurmActuator:  # fmt: skip
    spec = pool.to_spec(pool_id)

    def render(launch: Launch, facts: SiteFacts, now: float) -> JobSpec:
        return fitted_job(launch, spec, facts, now, token=registration_token(secret, launch.action_id))

    client = slurm_client(pool.transport, clock)
    return SlurmActuator(
        spec, client, agents, render, cluster=cluster, clock=clock, poll_s=pool.poll_s, checkpoint=checkpoint
    )  # fmt: skip
