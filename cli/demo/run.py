"""One demo, from the first process to the verdict."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from secrets import token_hex

import aiohttp
import httpx
from rich.live import Live

from broker.app.settings import load_site
from broker.app.site_log import open_log
from broker.clock import SystemClock
from broker.model import wire
from broker.model.plan import Decision
from broker.model.replica import ReplicaPhase
from cli.demo.load import LoadPlayer
from cli.demo.memory import Memory
from cli.demo.place import Place
from cli.demo.scenario import ANSWERS_S, MODEL_ID, TAIL_S, Scenario, policies_yaml
from cli.demo.stack import Stack
from cli.demo.verdict import DrainSeen, drains_seen, problems_of, replay_problem
from cli.demo.view import LiveState, render_live
from cli.output import Exit, console, errors, print_json, tell
from simulator.report.render import render
from simulator.report.summary import Outcomes, ReplicaPoint, RunSummary, summarise

_POLL_S = 0.5


async def until_signal(run: Demo) -> Exit:
    """A demo that is told to end (Ctrl-C, a closed terminal) ends its processes first."""
    task = asyncio.create_task(run.run())
    loop = asyncio.get_running_loop()

    def told(*_: object) -> None:
        run.tell_end()
        loop.call_soon_threadsafe(task.cancel)

    # Not the loop's own handlers: those wait while a process starts, and nothing on the screen says that we heard.
    before = {number: signal.signal(number, told) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        return await task
    except asyncio.CancelledError:
        errors.print("interrupted: every process of the demo was ended")
        return Exit.INTERRUPTED
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Demo:
    """One demo from the first process to the verdict."""

    def __init__(
        self, scenario: Scenario, place: Place, memory: Memory, folder: Path, *, live: bool, as_json: bool
    ) -> None:  # fmt: skip
        self._scenario = scenario
        self._place = place
        self._memory = memory
        self._live = live
        self._as_json = as_json
        cluster = f"demo-{token_hex(4)}"
        policies = policies_yaml(scenario.profile, place.stop_grace_s)
        self._stack = Stack(folder, place.site_yaml(cluster, folder, memory.log), policies, (MODEL_ID,), cluster)
        self._state = LiveState(scenario.load_s + TAIL_S)
        self._points: list[ReplicaPoint] = []
        self._late = False
        self._shown = False
        self._ending = False

    async def run(self) -> Exit:
        if not self._as_json:
            errors.print(f"[bold]tidegate demo:[/] {self._scenario.title}")
        self._stack.write_files()
        site = self._stack.folder / "site.yaml"
        await self._memory.make(site)
        try:
            return await self._decided(site)
        finally:
            await self._memory.remove(site)

    async def _decided(self, site: Path) -> Exit:
        try:
            self._stack.start_broker()
            for _ in range(self._memory.workers):
                self._stack.start_worker()
            await asyncio.sleep(0)  # whoever ended it meanwhile need not wait for the gateway
            self._stack.start_gateway()
            await self._stack.wait_ready(MODEL_ID, 1)
            kind = await self._place.kind()
            summary, drains = await self._play()
        finally:
            self.tell_end()
            orphans = await self._end()
        log = open_log(load_site(site))
        try:
            problem, steps = await replay_problem(log)
        finally:
            await log.close()
        shaped = self._scenario.shaped
        renews = shaped and self._place.renews
        problems = list(problems_of(summary, drains, orphans, open_at_drain=shaped, renews=renews))
        problems += [problem] if problem else []
        return self._tell(replace(summary, problems=tuple(problems)), drains, steps, kind)

    def tell_end(self) -> None:
        """Said once, before the seconds that it takes; not into the view, which vanishes first."""
        if not self._ending and not self._shown:
            self._ending = True
            errors.print("ending the demo's processes ...")

    async def _play(self) -> tuple[RunSummary, list[DrainSeen]]:
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=None, sock_read=120.0)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False) as session:
            player = LoadPlayer(session, self._stack.gateway_url, MODEL_ID)
            with self._stack.client() as client:
                watching = asyncio.create_task(self._watch(client, player))
                try:
                    await self._play_bounded(player)
                    await self._quiet_tail(player)
                finally:
                    watching.cancel()
                    await asyncio.gather(watching, return_exceptions=True)
                if self._look(client):
                    self._note(player)
                decisions = _decisions(client)
        if self._late:
            errors.print("[red]the last requests did not end in time[/]")
        for problem in player.problems:
            errors.print(f"[red]request problem:[/] {problem}", markup=True)
        summary = summarise(
            source="demo",
            started_at=player.began_at,
            duration_s=player.elapsed_s,
            outcomes=Outcomes.of(player.outcomes),
            replicas=self._points,
            decisions=decisions,
            trace=self._scenario.counts,
        )
        return summary, drains_seen(self._state.replicas, player)

    async def _play_bounded(self, player: LoadPlayer) -> None:
        """The whole load; what has not ended in time is counted as unfinished, and the demo ends all the same."""
        try:
            async with asyncio.timeout(self._scenario.load_s + ANSWERS_S):
                await player.play(self._scenario.requests, SystemClock().now)
        except TimeoutError:
            self._late = True

    async def _quiet_tail(self, player: LoadPlayer) -> None:
        """Until it has scaled in to one replica, at most the tail's length."""
        end_s = self._scenario.load_s + TAIL_S
        while player.elapsed_s < end_s:
            serving = [r for r in self._state.replicas if r["phase"] not in ("gone", "failed")]
            if player.elapsed_s > self._scenario.load_s and len(serving) <= 1:
                return
            await asyncio.sleep(_POLL_S)

    async def _watch(self, client: httpx.Client, player: LoadPlayer) -> None:
        """Look twice a second, and show it if somebody watches."""
        with self._view() as show:
            while True:
                if await asyncio.to_thread(self._look, client):
                    self._note(player)
                show()
                await asyncio.sleep(_POLL_S)

    @contextmanager
    def _view(self) -> Iterator[Callable[[], None]]:
        """On the terminal's other screen, so that nothing of it stays behind, however small the terminal is."""
        if not self._live:
            yield lambda: None
            return
        self._shown = True
        try:
            with Live(render_live(self._state, console), console=console, auto_refresh=False, screen=True) as live:
                yield lambda: live.update(render_live(self._state, console), refresh=True)
        finally:
            self._shown = False

    def _look(self, client: httpx.Client) -> bool:
        """Ask the broker; False if it gave no answer."""
        state = self._state
        try:
            state.replicas = self._stack.replicas(client, MODEL_ID)
            state.signals = client.get(f"/v1/signals/{MODEL_ID}").json()["snapshot"] or {}
            state.decisions = _decisions(client, limit=50)
            state.target = client.get("/v1/models").json()["models"][0]["target"]
        except (httpx.HTTPError, LookupError, ValueError):
            return False  # the next look will do; a dead broker shows in the verdict
        return True

    def _note(self, player: LoadPlayer) -> None:
        """The player's figures of one moment, so that they add up: not from the thread that asks the broker."""
        state = self._state
        state.elapsed_s, state.sent, state.open_streams = player.elapsed_s, player.sent, player.open_streams
        state.finished = sum(outcome.status == "finished" for outcome in player.outcomes)
        state.failed = len(player.outcomes) - state.finished
        state.waiting = state.sent - len(player.outcomes) - state.open_streams
        state.note()
        self._points.append(
            ReplicaPoint.of(max(0.0, player.elapsed_s), [ReplicaPhase(r["phase"]) for r in state.replicas])
        )

    async def _end(self) -> int:
        """Stop everything; returns the number of replicas that no record named."""
        known = {replica["replica_id"] for replica in self._state.replicas}
        try:
            orphans = sum(replica_id not in known for replica_id in await self._place.running(self._stack))
        finally:
            self._stack.stop()
        await self._place.end(self._stack)
        return orphans

    def _tell(self, summary: RunSummary, drains: list[DrainSeen], steps: int, kind: str) -> Exit:
        ran_as = {replica["replica_id"]: replica["runs_as"] for replica in self._state.replicas}
        if self._as_json:
            body = wire.encode(summary) | {
                "ran_as": ran_as,
                "drains": [wire.encode(drain) for drain in drains],
                "replayed_steps": steps,
                "ok": not summary.problems,
            }
            print_json(body)
        else:
            render(summary, console)
            tell(f"Replicas were {kind}: {', '.join(f'{name} as {what}' for name, what in ran_as.items())}.")
            for drain in drains:
                tell(drain.words)
            console.print(f"{steps} recorded steps replayed: the same decisions, byte for byte." if steps else "")
        return Exit.FAILED if summary.problems else Exit.OK


def _decisions(client: httpx.Client, limit: int = 10_000) -> list[Decision]:
    body = client.get("/v1/decisions", params={"model": MODEL_ID, "limit": limit}).json()
    found: list[Decision] = [wire.decode(Decision, row) for row in body["decisions"]]
    return found if limit < 10_000 else found[::-1]
