"""The registry as a file, and what the probes of a large site cost."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from broker.app.outputs import RETRY_S, EndpointsFile
from broker.app.runtime import cancel
from broker.model import wire
from broker.model.api import EndpointsSnapshot
from tests.support.api_world import ApiWorld, api_world

pytestmark = pytest.mark.looptime(idle_step=0.05)


async def until_written(world: ApiWorld, path: Path, revision: int) -> EndpointsSnapshot:
    async with asyncio.timeout(60):
        while True:
            await asyncio.sleep(0.1)
            text = await asyncio.to_thread(lambda: path.read_text() if path.exists() else "")
            found: EndpointsSnapshot | None = wire.decode(EndpointsSnapshot, json.loads(text)) if text else None
            if found is not None and found.revision >= revision:
                return found


async def test_the_file_follows_the_registry_and_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "endpoints.json"
    async with api_world() as world:
        await asyncio.sleep(0.5)
        writing = asyncio.create_task(EndpointsFile(path, world.runtime).run())
        assert (await until_written(world, path, 0)).endpoints == ()
        first = path.stat().st_ino
        await world.serve(1)
        found = await until_written(world, path, 1)
        assert [(e.endpoint_id, e.phase) for e in found.endpoints] == [("chat-0-g1", "ready")]
        assert path.stat().st_ino != first
        await cancel([writing])
    assert os.listdir(path.parent) == ["endpoints.json"]


async def test_a_disk_that_refuses_is_told_once_and_tried_again(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.write_text("in the way")
    async with api_world() as world:
        await asyncio.sleep(0.5)
        writing = asyncio.create_task(EndpointsFile(folder / "endpoints.json", world.runtime).run())
        for _ in range(3):
            await asyncio.sleep(RETRY_S)
            await asyncio.to_thread(lambda: None)
        told = [line for line in world.logged if line["event"] == "endpoints_file_failed"]
        assert [(line["path"], line["log_level"]) for line in told] == [(str(folder / "endpoints.json"), "error")]
        assert told[0]["problem"]
        folder.unlink()
        await until_written(world, folder / "endpoints.json", 0)
        await asyncio.sleep(0.1)
        assert any(line["event"] == "endpoints_file_written" for line in world.logged)
        await cancel([writing])


async def test_what_a_crash_left_half_written_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "endpoints.json"
    (tmp_path / ".endpoints.json.partial").write_text('{"revision": ')
    async with api_world() as world:
        await asyncio.sleep(0.5)
        writing = asyncio.create_task(EndpointsFile(path, world.runtime).run())
        await until_written(world, path, 0)
        await cancel([writing])
    assert os.listdir(tmp_path) == ["endpoints.json"]
