"""``gpuexec top`` itself, driven by Textual's pilot: what is on the screen, and that q detaches."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from gpuexec.errors import CannotAttach
from gpuexec.live.client import LiveClient
from tests.unit.live.runs import NASTY_NAMES, ServedRun, wait_for

pytest.importorskip("textual", reason="gpuexec top draws with it: pip install 'gpuexec[top]'")

from gpuexec.live.app import Received, TopApp


def screen_of(app: TopApp) -> str:
    """Return what is on the app's screen."""
    return "\n".join(strip.text.rstrip() for strip in app.screen._compositor.render_strips())


async def until(app: TopApp, happened: Callable[[], object]) -> None:
    """Let the app work until it shows what is waited for."""
    for _ in range(10_000):
        if happened():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"it has not happened; the screen is\n{screen_of(app)}")


def drive(app: TopApp, steps: Callable[..., Awaitable[None]], size: tuple[int, int] = (80, 24)) -> None:
    async def run() -> None:
        async with app.run_test(size=size) as pilot:
            await steps(pilot)

    assert inspect.iscoroutinefunction(steps)
    asyncio.run(run())


@pytest.fixture
def run(tmp_path: Path):
    served = ServedRun(tmp_path, pipeline="curate")
    yield served
    if served.server is not None:
        served.end()


def app_on(folder: Path) -> TopApp:
    return TopApp(LiveClient(folder), lambda: LiveClient(folder))


def test_stages_workers_and_log_at_80_by_24_and_q_detaches(run: ServedRun, tmp_path: Path):
    app = app_on(tmp_path)

    async def steps(pilot):
        run.print("hello from a stage")
        await until(app, lambda: run.server.attached)
        run.gauge(10)
        shown = ("hello from a stage", "embed-0", "Detach (the run goes on)")
        await until(app, lambda: all(text in screen_of(app) for text in shown))
        lines = screen_of(app).split("\n")
        assert len(lines) == 24
        assert max(map(len, lines)) <= 80
        assert "curate · run abc123" in lines[0]
        assert "running for 1 s" in lines[1]
        assert any(line.split()[:2] == ["read", "10/100"] for line in lines)
        assert shown[-1] in lines[-1]
        await pilot.press("q")

    drive(app, steps)
    assert app.return_code == 0
    wait_for(lambda: not run.server.attached)
    run.gauge(11)
    run.end()


@pytest.mark.parametrize("size", [(80, 24), (40, 12), (133, 40), (20, 6)])
def test_a_name_is_never_markup_nor_moves_the_cursor(tmp_path: Path, size):
    run = ServedRun(tmp_path, NASTY_NAMES, pipeline=NASTY_NAMES[1])
    app = app_on(tmp_path)

    async def steps(pilot):
        await until(app, lambda: run.server.attached)
        for name in NASTY_NAMES:
            run.print(name)
        run.log(NASTY_NAMES[1])
        run.gauge(10)
        await until(app, lambda: app._snapshot is not None)
        await pilot.resize_terminal(size[0] + 1, size[1])
        await pilot.resize_terminal(*size)
        await pilot.pause()
        if size[0] >= 80:
            assert "[bold]not bold[/bold] [/ · run abc123" in screen_of(app)
            assert screen_of(app).count("[bold]not bold") >= 2
        run.end()
        await until(app, lambda: app.last_words is not None)

    drive(app, steps, size)


def test_a_run_that_ends_says_where_its_report_is(run: ServedRun, tmp_path: Path):
    app = app_on(tmp_path)

    async def steps(pilot):
        await until(app, lambda: run.server.attached)
        run.gauge(10)
        run.end("ValueError: [no]")
        await until(app, lambda: "the run has failed" in screen_of(app))
        assert "gpuexec report abc123" in screen_of(app)
        await pilot.press("q")

    drive(app, steps)
    assert "ValueError: [no]" in app.last_words


def test_a_client_that_was_dropped_attaches_again(run: ServedRun, tmp_path: Path):
    app = app_on(tmp_path)

    async def steps(pilot):
        await until(app, lambda: run.server.attached)
        run.gauge(10)
        await until(app, lambda: app._snapshot is not None)
        first = app._client
        first._connection.shutdown(2)  # as the server does with one that takes nothing
        await until(app, lambda: app._client is not first and run.server._arrivals == 2)
        run.gauge(77)
        await until(app, lambda: "77/" in screen_of(app))

    drive(app, steps)


def test_a_run_that_was_killed_is_said_to_have_been(run: ServedRun, tmp_path: Path):
    def refuse():
        raise CannotAttach("run abc123 has ended (killed)")

    app = TopApp(LiveClient(tmp_path), refuse)

    async def steps(pilot):
        await until(app, lambda: run.server.attached)
        app._client._connection.shutdown(2)
        await until(app, lambda: "run abc123 has ended (killed)" in screen_of(app))

    drive(app, steps)


def test_before_the_first_snapshot_it_says_what_it_waits_for(run: ServedRun, tmp_path: Path):
    app = app_on(tmp_path)

    async def steps(pilot):
        await until(app, lambda: "attached; the run says how far it is" in screen_of(app))

    drive(app, steps)


def test_what_arrives_while_the_app_ends_is_not_drawn(run: ServedRun, tmp_path: Path):
    app = app_on(tmp_path)

    async def steps(pilot):
        await until(app, lambda: run.server.attached)
        run.gauge(10)
        await until(app, lambda: app._snapshot is not None)
        await pilot.press("q")

    drive(app, steps)
    entry = {"time": 0.0, "level": "INFO", "stage": None, "worker": None, "text": "late"}
    for content in (
        {"snapshot": app._snapshot},
        {"log": [entry]},
        {"end": {"outcome": "ok", "error": None, "wall_s": 1.0}},
    ):
        app.on_received(Received(content))
    app.on_resize(None)
    assert app.last_words.startswith("the run is done")
