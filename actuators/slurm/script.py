"""From a launch to the job that is submitted: what it asks Slurm for, and the script that it runs.

The script carries the agent's source: no file system needs to be shared with the nodes, nothing is installed on them,
and an agent always fits the broker that wrote its script. It is some 45 KiB, against Slurm's limit of 4 MiB. The job's
token stands in the script too, and not in the environment that a transport sends along: a script travels by standard
input or in a request's body, while ``sbatch --export`` would show in process lists. Slurm shows a script to its owner
and to administrators only.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from actuators.slurm import sbatch
from actuators.slurm.client import SiteFacts
from actuators.slurm.job import COMMENT_MARK, JobSpec, WarningSignal
from actuators.slurm.marks import mark_of_launch
from actuators.slurm.options import SlurmOptions, options_of
from actuators.slurm.outputs import output_pattern
from actuators.slurm.wall_time import fitted_limit_s
from broker.model.errors import ActionRejected, ConfigError
from broker.model.plan import Launch
from broker.model.replica import Tier
from broker.model.spec import EngineSpec, ModelSpec, PolicySpec, PoolSpec

TEMPLATES = Path(__file__).with_name("templates")
AGENT = Path(__file__).with_name("agent.py")
PROBE = Path(__file__).with_name("node_probe.py")
END_OF_AGENT = "TIDEGATE_AGENT_ENDS_HERE"
HIDDEN_TOKEN = "(made when the job is submitted)"
"""Stands in a script that is shown."""
LONGEST_NOTICE_S = 65535
USEFUL_S = 900.0
"""A job that could serve for less than this before its drain is not worth its start."""
NOTICE_SLACK_S = 60.0
"""Slurm looks at limits every 30 s, so that a warning may come that much too late."""

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PLACEHOLDER = re.compile(r"\{(python|model|replica)\}")


def job_spec(
    launch: Launch, pool: PoolSpec, *, token: str, time_limit_s: float | None = None, log_id: str = ""
) -> JobSpec:
    """The job of one launch; the same launch and pool always give the same. ``time_limit_s`` is a fitted one,
    ``log_id`` of the log in which the launch stands.

    Raises ``ActionRejected`` for a replica that fits no node, ``ConfigError`` for what is to be mended in ``site.yaml``
    or in a template.
    """
    options, model = options_of(pool), launch.model
    job = options.job
    for name in ("broker_url", "directory"):
        if not getattr(job, name):
            raise ConfigError("is needed to submit jobs; set it in site.yaml", field=f"pools.{pool.pool_id}.job.{name}")
    if options.gpus_per_node is not None and model.gpus > options.gpus_per_node:
        raise ActionRejected(
            f"a replica of {model.model_id} needs {model.gpus} GPUs and a node of pool {pool.pool_id} has "
            f"{options.gpus_per_node}; replicas over several nodes are not made yet: mend the model's gpus or pools in "
            "policies.yaml"
        )
    limit_s = options.time_limit_s if time_limit_s is None else time_limit_s
    notice_s = min(job.notice_s or model.drain_limit_s + model.stop_grace_s + NOTICE_SLACK_S, LONGEST_NOTICE_S)
    spec = JobSpec(
        name=launch.action_id,
        comment=mark_of_launch(launch, log_id).comment,
        script="",
        partition=options.partition,
        time_limit_s=limit_s,
        output=output_pattern(job.directory, launch.replica_id),
        working_directory=job.directory,
        gpus=model.gpus,
        gpu_type=options.gpu_type,
        cpus=None if job.cpus_per_gpu is None else job.cpus_per_gpu * max(1, model.gpus),
        memory_mib=None if job.memory_per_gpu_mib is None else job.memory_per_gpu_mib * max(1, model.gpus),
        account=options.account,
        qos=options.qos,
        constraint=options.constraint,
        reservation=job.reservation,
        licenses=job.licenses,
        exclude=job.exclude,
        warning=WarningSignal("USR1", int(notice_s)),
    )
    return replace(spec, script=_script(spec, launch, pool.pool_id, options, token, notice_s))


def fitted_job(
    launch: Launch, pool: PoolSpec, facts: SiteFacts, now: float, *, token: str, log_id: str = ""
) -> JobSpec:
    """The job of one launch at ``now``, with a wall time that the partition gives and that ends before maintenance.

    Raises ``ActionRejected`` as ``job_spec`` does and for a partition that is not there, ``CapacityUnavailable`` if too
    little time is left.
    """
    options, model = options_of(pool), launch.model
    partition = facts.partition(options.partition)
    if partition is None:
        words = f"there is no partition {options.partition}; mend partition: known are {facts.partition_names}"
        raise ActionRejected(words)
    least_s = min(options.time_limit_s, USEFUL_S + model.drain_limit_s)
    limit_s = fitted_limit_s(options.time_limit_s, now, facts.reservations, partition, least_s=least_s)
    return job_spec(launch, pool, token=token, time_limit_s=limit_s, log_id=log_id)


def rehearsed_script(launch: Launch, pool: PoolSpec, log_id: str = "") -> str:
    """The script of a launch for people to read: without its token, and without the agent's text. Raises as
    ``job_spec`` does."""
    script = job_spec(launch, pool, token=HIDDEN_TOKEN, log_id=log_id).script
    return script.replace(_agent_source(), "(here stands the node agent)")


def script_problem(pool: PoolSpec) -> ConfigError | None:
    """Why no job of the pool can have a script, whatever its model."""
    try:
        job_spec(_trial(pool), pool, token=HIDDEN_TOKEN)
    except ConfigError as error:
        return error
    return None


def _trial(pool: PoolSpec) -> Launch:
    """Of a replica of one GPU that does nothing."""
    model = ModelSpec("probe", EngineSpec(command=("true",)), PolicySpec("threshold"), gpus=1)
    return Launch("tidegate-probe", "doctor", "tidegate-probe", model, pool.pool_id, 0, 1, Tier.ELASTIC)


def probe_job(pool: PoolSpec, facts: SiteFacts, now: float, *, limit_s: float) -> JobSpec:
    """A job that asks for what a replica of one GPU would, and looks at its node instead: ``actuators.slurm.probe``. By
    its comment it is nobody's replica. Raises as ``fitted_job`` does."""
    job = fitted_job(_trial(pool), pool, facts, now, token=HIDDEN_TOKEN)
    script = job.script.replace(_agent_source(), PROBE.read_text(encoding="utf-8").rstrip("\n"))
    return replace(job, comment=f"{COMMENT_MARK} probe of {pool.pool_id}", script=script, time_limit_s=limit_s)


def _script(spec: JobSpec, launch: Launch, pool_id: str, options: SlurmOptions, token: str, notice_s: float) -> str:
    job = options.job
    values: dict[str, Any] = {
        "options": sbatch.script_options(spec),
        "modules": job.modules,
        "environment": _environment(launch, pool_id, options),
        "weights": job.weights,
        "prolog": job.prolog,
        "container": job.container,
        "binds": (*(job.container.binds if job.container else ()), *((job.weights,) if job.weights else ())),
        "python": job.python,
        "agent": json.dumps(_agent_settings(launch, options, notice_s), sort_keys=True),
        "token": token,
        "engine": _engine(launch, options),
        "agent_source": _agent_source(),
        "end_of_agent": END_OF_AGENT,
    }
    name = job.template or ("apptainer.sh.j2" if job.container else "bare.sh.j2")
    return _rendered(name, values, f"pools.{pool_id}.job.template")


def _agent_settings(launch: Launch, options: SlurmOptions, notice_s: float) -> dict[str, Any]:
    """``actuators.slurm.agent.Settings``."""
    job, model = options.job, launch.model
    settings = {
        "broker_url": job.broker_url,
        "broker_ca": job.broker_ca,
        "action_id": launch.action_id,
        "cluster": launch.cluster,
        "model_id": launch.model_id,
        "ordinal": launch.ordinal,
        "generation": launch.generation,
        "front": job.front,
        "address": job.address,
        "ports": list(job.ports),
        "socket_option": job.socket_option,
        "gpu_type": options.gpu_type,
        "key_variables": ["VLLM_API_KEY", *(["APPTAINERENV_VLLM_API_KEY"] if job.container else [])],
        "load_timeout_s": model.load_timeout_s,
        "stop_grace_s": model.stop_grace_s,
        "notice_s": notice_s,
    }
    return {name: value for name, value in settings.items() if value is not None}


def _environment(launch: Launch, pool_id: str, options: SlurmOptions) -> dict[str, str]:
    of_pool, of_model = options.job.environment, launch.model.engine.environment
    for field, environment in (
        (f"pools.{pool_id}.job.environment", of_pool),
        (f"models.{launch.model_id}.engine.environment", of_model),
    ):
        for name in environment:
            if not _VARIABLE.fullmatch(name):
                words = f"{name!r} cannot name a variable of a shell; use letters, digits and underscores"
                raise ConfigError(words, field=field)
    return {**of_pool, **of_model}


def _engine(launch: Launch, options: SlurmOptions) -> list[str]:
    """The engine's command; ``{host}`` and ``{port}`` are left to the agent, which finds a free one on the node."""
    values = {"python": options.job.python, "model": launch.model_id, "replica": launch.replica_id}
    return [_PLACEHOLDER.sub(lambda found: values[found[1]], argument) for argument in launch.model.engine.command]


@cache
def _agent_source() -> str:
    source = AGENT.read_text(encoding="utf-8").rstrip("\n")
    assert END_OF_AGENT not in source
    return source


def _rendered(name: str, values: Mapping[str, Any], field: str) -> str:
    """A shipped template by its name, or a site's own by its path, which may extend a shipped one."""
    try:
        import jinja2
    except ImportError:
        raise ConfigError("the scripts of Slurm jobs need Jinja2: pip install 'tidegate[slurm]'") from None
    shipped = "/" not in name
    folders = [str(TEMPLATES)] if shipped else [str(Path(name).parent), str(TEMPLATES)]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters |= {"quoted": shlex.quote, "words": shlex.join}
    try:
        return environment.get_template(Path(name).name).render(values)
    except jinja2.TemplateNotFound as error:
        known = ", ".join(sorted(path.name for path in TEMPLATES.glob("*.j2")))
        raise ConfigError(
            f"there is no template {error.name} in {' or '.join(folders)}; shipped are {known}", field=field
        ) from None
    except jinja2.TemplateSyntaxError as error:
        raise ConfigError(f"{error.message}", path=error.filename, line=error.lineno, field=field) from None
    except jinja2.UndefinedError as error:
        raise ConfigError(
            f"template {name}: {error.message}; it may use {', '.join(sorted(values))}", field=field
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"template {name} cannot be read: {error}", field=field) from None
    except RecursionError:
        words = f"template {name} extends itself; call it otherwise than what is shipped and it extends"
        raise ConfigError(words, field=field) from None
    except Exception as error:  # whatever a site's own expressions do
        raise ConfigError(f"template {name} fails: {type(error).__name__}: {error}", field=field) from None
