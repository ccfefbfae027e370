"""A gateway runs on uvloop where it is installed, and without it all the same."""

from __future__ import annotations

import asyncio
import importlib.util

from gateway.event_loop import fastest_loop, run


def test_the_loop_is_uvloop_only_where_it_is_installed() -> None:
    assert (fastest_loop() is not None) is (importlib.util.find_spec("uvloop") is not None)


def test_the_main_coroutine_runs_to_its_end() -> None:
    seen: list[asyncio.AbstractEventLoop] = []

    async def main() -> None:
        await asyncio.sleep(0)
        seen.append(asyncio.get_running_loop())

    run(main())
    assert len(seen) == 1
