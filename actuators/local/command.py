"""From a launch to an argument list and an environment. Pure but for looking up the executable."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from actuators.local.records import LocalRecord
from broker.model import wire
from broker.model.errors import ActionRejected
from broker.model.spec import PLACEHOLDERS, EngineSpec

ACTION_ID = "TIDEGATE_ACTION_ID"
CLUSTER = "TIDEGATE_CLUSTER"
REPLICA_ID = "TIDEGATE_REPLICA_ID"
RECORD = "TIDEGATE_RECORD"
RECORDS = "TIDEGATE_RECORDS"

_PLACEHOLDER = re.compile(r"\{(" + "|".join(PLACEHOLDERS) + r")\}")


def arguments(engine: EngineSpec, record: LocalRecord) -> list[str]:
    """The engine's command with ``{python}`` (the broker's own interpreter), ``{host}``, ``{port}``, ``{model}`` and
    ``{replica}`` replaced, once, anywhere in an argument; other braces (JSON options) stay as they are."""
    values = {
        "python": sys.executable,
        "host": record.host,
        "port": str(record.port),
        "model": record.model_id,
        "replica": record.replica_id,
    }
    return [_PLACEHOLDER.sub(lambda match: values[match[1]], argument) for argument in engine.command]


def environment(
    inherited: Mapping[str, str], engine: EngineSpec, record: LocalRecord, records: Path, key: str
) -> dict[str, str]:
    """What the replica is started with: the broker's environment without Tidegate's own variables (the site's secret
    and tokens are among them), the engine's, the key, and the identity by which it is found again: its record, and
    ``records``, the folder that this is kept in."""
    kept = {name: value for name, value in inherited.items() if not name.startswith("TIDEGATE_")}
    devices = {"CUDA_VISIBLE_DEVICES": ",".join(record.gpu_ids)} if record.gpu_ids else {}
    identity = {
        ACTION_ID: record.action_id,
        CLUSTER: record.cluster,
        REPLICA_ID: record.replica_id,
        RECORD: wire.dumps(record),
        RECORDS: str(records),
    }
    return kept | dict(engine.environment) | devices | {"VLLM_API_KEY": key} | identity


def executable(command: list[str], environ: Mapping[str, str]) -> str:
    """The program's path as the replica's own ``PATH`` finds it. Raises ``ActionRejected``."""
    if not command:
        raise ActionRejected("the engine's command is empty; give models.NAME.engine.command at least a program")
    found = shutil.which(command[0], path=environ.get("PATH"))
    if found is None:
        raise ActionRejected(
            f"cannot execute {command[0]!r}: there is no such program, or it may not be executed by this user; "
            "mend models.NAME.engine.command, or install it on this machine"
        )
    return found
