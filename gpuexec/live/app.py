"""``gpuexec top``: what a run does, in a terminal of its own. Only this module imports Textual."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from rich.text import Text
from textual import events, work
from textual.app import App, ComposeResult
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.message import Message
from textual.widgets import Footer, RichLog, Static

from gpuexec.errors import CannotAttach
from gpuexec.live import text
from gpuexec.live.client import LiveClient
from gpuexec.observe.live_table import FINISHED, LIMITS
from gpuexec.report.columns import lay_out, shortened

_WAIT_S = 0.5  # so that the thread notices when the app ends
_MOST_LOG_LINES = 500


class Received(Message):
    """A message of the run has arrived."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        super().__init__()
        self.content = content


class Lost(Message):
    """The connection has ended without a word."""

    def __init__(self, why: str) -> None:
        super().__init__()
        self.why = why


class Pane(VerticalScroll):
    """Lines of text that scroll. They are plain text: nothing in a name or a log is taken for markup."""

    def compose(self) -> ComposeResult:
        """Make the text's widget."""
        yield Static(markup=False)

    def show(self, lines: Sequence[Text]) -> None:
        """Replace the lines."""
        self.query_one(Static).update(Text("\n").join(lines))


class TopApp(App[None]):
    """Shows a run until its user detaches. ``attach_again``: attaches to the same run; raises ``CannotAttach``.

    ``last_words``: how the run ended, if it has.
    """

    TITLE = "gpuexec top"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    Screen { layout: vertical; }
    .line { height: 1; }
    #title { background: $primary; color: $text; text-style: bold; }
    #stages { height: auto; max-height: 40%; margin-top: 1; }
    #gpus { height: auto; max-height: 25%; margin-top: 1; display: none; }
    #workers { height: 1fr; min-height: 3; margin-top: 1; }
    #log { height: 30%; min-height: 3; max-height: 12; border-top: solid $primary; }
    Pane:focus, #log:focus { background: $boost; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [("q", "detach", "Detach (the run goes on)"), ("tab", "focus_next", "Next")]

    def __init__(self, client: LiveClient, attach_again: Callable[[], LiveClient]) -> None:
        super().__init__()
        self._client = client
        self._attach_again = attach_again
        self._hello = client.hello
        self._snapshot: Mapping[str, Any] | None = None
        self._lost: str | None = None
        self._detached = False
        self._ui_loop: asyncio.AbstractEventLoop | None = None
        self.last_words: str | None = None

    def compose(self) -> ComposeResult:
        """Make the screen."""
        yield Static(id="title", classes="line", markup=False)
        yield Static(id="state", classes="line", markup=False)
        yield Pane(id="stages")
        yield Pane(id="gpus")
        yield Pane(id="workers")
        yield RichLog(id="log", markup=False, highlight=False, max_lines=_MOST_LOG_LINES)
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Begin to listen."""
        self._ui_loop = asyncio.get_running_loop()
        self._draw()
        self.set_interval(1.0, self._draw_state)
        self._listen()

    def on_unmount(self) -> None:
        """Detach."""
        self._detached = True
        self._client.close()

    def on_resize(self, _event: events.Resize) -> None:
        """Lay everything out anew."""
        self._draw()

    async def action_detach(self) -> None:
        """End the display. The run does not notice."""
        self.exit()

    def leave(self, return_code: int) -> None:
        """End the display, from any thread or signal handler."""
        if self._ui_loop is not None:
            self._ui_loop.call_soon_threadsafe(partial(self.exit, return_code=return_code))

    @work(thread=True)
    def _listen(self) -> None:
        """Pass messages on to the app, until the run ends or the app does."""
        while not self._detached:
            try:
                for content in self._client.messages(_WAIT_S):
                    self.post_message(Received(content))
                    if "end" in content:
                        return
                if self._client.is_open or self._detached:
                    continue
                self._client.close()
                self._client = self._attach_again()  # it had dropped a client that was stopped
                self.post_message(Received({"hello": self._client.hello}))
            except CannotAttach as error:
                self.post_message(Lost(str(error)))
                return

    def on_received(self, message: Received) -> None:
        """Show what the run says; what this version does not know is left out."""
        content = message.content
        if "snapshot" in content:
            self._snapshot = content["snapshot"]
            self._draw()
        elif "log" in content:
            self._add_log(content["log"], content.get("missing", 0))
        elif "end" in content:
            self.last_words = text.end_line(self._hello, content["end"])
            self._draw_state()
        elif "refused" in content:
            self.on_lost(Lost(f"the run refuses: {content['refused']}"))

    def on_lost(self, message: Lost) -> None:
        """Say that nothing more will come."""
        self._lost = self.last_words = message.why
        self._draw_state()

    # ---- drawing: while the app ends, messages and the timer still come, but its widgets have gone --------------

    def _draw(self) -> None:
        if not self.is_running:
            return
        width = max(1, self.size.width - 2)  # a scroll bar takes the last columns
        self.query_one("#title", Static).update(shortened(text.title_of(self._hello), width))
        self._draw_state()
        snapshot = self._snapshot
        if snapshot is None:
            return
        view = text.view_of(snapshot)
        stages = lay_out(
            "stage", text.stage_names(view), text.STAGE_COLUMNS, [text.stage_cells(s) for s in view.stages], width
        )
        self.query_one("#stages", Pane).show(_styled(stages))
        workers = snapshot["workers"]
        gpus = self.query_one("#gpus", Pane)
        gpus.display = bool(view.gpus)
        if view.gpus:
            gpus.show(_styled(text.gpu_rows(view, workers, width)))
        rows = lay_out(
            "worker", [w["id"] for w in workers], text.WORKER_COLUMNS, [text.worker_cells(w) for w in workers], width
        )
        if snapshot["workers_left_out"]:
            rows.append(f"… {snapshot['workers_left_out']} more workers")
        self.query_one("#workers", Pane).show(_styled(rows))

    def _draw_state(self) -> None:
        if not self.is_running:
            return
        state = self.query_one("#state", Static)
        width = max(1, self.size.width - 2)
        if self.last_words is not None:
            state.update(Text(shortened(self.last_words, width), style="bold"))
        elif self._snapshot is None:
            waits = "attached; the run says how far it is within a second, or once its caller takes tasks again"
            state.update(shortened(waits, width))
        else:
            state.update(text.state_of(self._snapshot, width))

    def _add_log(self, entries: Sequence[Mapping[str, Any]], missing: int) -> None:
        if not self.is_running:
            return
        log = self.query_one("#log", RichLog)
        if missing:
            log.write(Text(f"… {missing} lines left out", style="italic"))
        for entry in entries:
            warns = entry["level"] not in ("INFO", "DEBUG", "TRACE", "SUCCESS")
            log.write(Text(text.log_line(dict(entry)), style="yellow" if warns else ""))


def _styled(lines: Sequence[str]) -> list[Text]:
    """Return the heading in bold, and stages that limit the run or have finished in styles of their own."""
    styled = [Text(lines[0], style="bold")]
    for line in lines[1:]:
        style = "bold yellow" if LIMITS.strip() in line else "dim" if FINISHED.strip() in line else ""
        styled.append(Text(line, style=style))
    return styled
