"""Pools of Slurm jobs: what each job asks for, what runs in it, and how Slurm is spoken to."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from actuators.slurm.rest.parsers import family_of
from broker.app.settings.fields import Duration, HttpAddress, LocalPath, Section, Size
from broker.app.settings.pool import Pool, Port
from broker.app.settings.words import Misplaced
from broker.model.errors import ActionRejected
from broker.model.spec import JsonValue, PoolSpec

_MIB = 2**20


class ContainerSettings(Section):
    """An image that engines run in."""

    image: str = Field(min_length=1, description="The image: a file or an address that the program takes.")
    program: str = Field(default="apptainer", description="`apptainer`, or `singularity`.")
    arguments: list[str] = Field(default=["--nv"], description="What stands after `exec`.")
    binds: list[str] = Field(default=[], description="Folders shown inside, as `--bind` takes them.")


class JobSettings(Section):
    """What a job runs and what it needs for that. The names of files and programs are those of the nodes."""

    broker_url: HttpAddress = Field(
        min_length=1, description="The broker's API as nodes reach it: `http://login1:8600`."
    )
    broker_ca: str | None = Field(default=None, description="File with the authority that signed its certificate.")
    directory: str = Field(min_length=1, description="Existing folder where jobs run and write their output.")
    template: LocalPath | None = Field(
        default=None, description="A template of one's own for the script; it may extend `job.sh.j2`."
    )
    container: ContainerSettings | None = Field(default=None, description="Run engines in a container.")
    modules: list[str] = Field(default=[], description="Modules to load.")
    environment: dict[str, str] = Field(default={}, description="Variables for engines, those of models besides.")
    prolog: list[str] = Field(default=[], description="Commands of the shell before the engine.")
    weights: str | None = Field(default=None, description="Folder of the weights; checked before the engine starts.")
    python: str = Field(default="python3", description="Python 3.9 or newer on the nodes; `{python}` of commands.")
    cpus_per_gpu: Annotated[int, Field(ge=1)] | None = Field(default=None, description="CPUs for each GPU.")
    memory_per_gpu_bytes: Size | None = Field(default=None, description="Memory for each GPU.")
    reservation: str | None = Field(default=None, description="A reservation to run in.")
    licenses: list[str] = Field(default=[], description="Licences that each job takes, as `name:count`.")
    exclude: list[str] = Field(default=[], description="Nodes not to run on.")
    notice_s: Duration | None = Field(
        default=None,
        description="How long before the wall time a job asks to be drained; by default the model's drain limit, its "
        "stop grace and a minute.",
    )
    front: bool = Field(
        default=True, description="Let others to an engine through the agent only: OpenAI paths, with the key."
    )
    socket_option: str | None = Field(
        default=None,
        description="The engine's option to listen on a socket file (`--uds`), which no other user can open.",
    )
    address: str | None = Field(
        default=None, description="How gateways reach a node; by default as it reaches the broker."
    )
    ports: list[Port] = Field(
        default=[20000, 29999], min_length=2, max_length=2, description="`[first, last]` of the ports to use on nodes."
    )

    @model_validator(mode="after")
    def _ports_in_order(self) -> JobSettings:
        if self.ports[0] > self.ports[1]:
            raise Misplaced(f"{self.ports} is not [first, last]", "ports")
        return self

    def to_options(self) -> dict[str, Any]:
        """``actuators.slurm.options.JobOptions`` as plain values."""
        plain = self.model_dump(mode="json", exclude={"memory_per_gpu_bytes"}, exclude_defaults=True)
        if self.memory_per_gpu_bytes is not None:
            plain["memory_per_gpu_mib"] = self.memory_per_gpu_bytes // _MIB
        return plain


class CommandsTransport(Section):
    """Slurm's commands on this machine."""

    kind: Literal["commands"] = Field(description="`commands`: `sbatch`, `squeue` and the others, here.")


class SshTransport(Section):
    """Slurm's commands on a login node. `deploy/slurm` has a wrapper for an account that may do nothing else."""

    kind: Literal["ssh"] = Field(description="`ssh`: the same commands on another machine.")
    host: str = Field(min_length=1, description="The login node.")
    user: str = Field(min_length=1, description="The account there.")
    port: Port = Field(default=22, description="Its SSH port.")
    known_hosts: LocalPath = Field(description="File with the host's key, without which nothing is sent.")
    keys: list[LocalPath] = Field(
        default=[], description="Private key files; by default the user's own and their agent's."
    )


class RestTransport(Section):
    """slurmrestd with JSON web tokens, which are renewed before they expire."""

    kind: Literal["slurmrestd"] = Field(description="`slurmrestd`: Slurm's REST API.")
    url: HttpAddress = Field(min_length=1, description="Its address: `http://login1:6820`.")
    user: str | None = Field(default=None, description="The Slurm user; by default whom the token names.")
    parser: str | None = Field(default=None, description="The API's version (`v0.0.42`); by default the newest known.")
    token_file: LocalPath | None = Field(default=None, description="A file with the token, kept fresh by others.")
    token_command: list[str] = Field(
        default=["scontrol", "token"],
        min_length=1,
        description="The command that prints a token, where no file is named.",
    )

    @field_validator("parser")
    @classmethod
    def _spoken(cls, parser: str | None) -> str | None:
        if parser is not None:
            try:
                family_of(parser)
            except ActionRejected as error:
                raise ValueError(str(error)) from None
        return parser


_COMMANDS: Any = {"kind": "commands"}
TransportSettings = Annotated[CommandsTransport | SshTransport | RestTransport, Field(discriminator="kind")]


class SlurmPool(Pool):
    """Replicas as jobs of a Slurm cluster. `tidegate run` needs `job`; a simulation knows none of it."""

    kind: Literal["slurm"] = Field(description="`slurm` submits them as batch jobs.")
    partition: str = Field(description="The partition that jobs are submitted to.")
    time_limit_s: Annotated[Duration, Field(ge=1)] = Field(description="The wall time that each job asks for.")
    gpus_per_node: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="GPUs of one node. A larger replica takes several in a simulation, and cannot be run yet. None: "
        "the cluster says.",
    )
    gpu_type: str | None = Field(default=None, description="The GRES type, as `a100` in `gpu:a100:4`.")
    account: str | None = Field(default=None, description="The account that jobs are charged to.")
    qos: str | None = Field(default=None, description="Their quality of service.")
    constraint: str | None = Field(default=None, description="Features that their nodes must have.")
    job: JobSettings | None = Field(default=None, description="What runs in a job.")
    transport: TransportSettings = Field(default=_COMMANDS, description="How Slurm is spoken to.")
    poll_s: Annotated[Duration, Field(ge=1)] = Field(
        default=5.0, description="How often our jobs are listed; less often where Slurm is slow to answer."
    )

    def to_spec(self, pool_id: str) -> PoolSpec:
        """All that a job is asked with is the actuator's business: the core counts GPUs."""
        asked: dict[str, JsonValue] = {
            "partition": self.partition,
            "time_limit_s": self.time_limit_s,
            "gpus_per_node": self.gpus_per_node,
            "gpu_type": self.gpu_type,
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "job": None if self.job is None else self.job.to_options(),
        }
        given = {name: value for name, value in asked.items() if value is not None}
        return PoolSpec(pool_id, self.kind, self.gpus, tuple(self.tiers), self.shared_options() | given)
