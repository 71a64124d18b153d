"""Timeline: what ran in the last ten minutes, who made way for whom, and why each task waited.

The kernel tells spans (``clawai.sdk.timeline``); here they become bars on rows, in the language of
who looks. The same spans go out as a trace that Perfetto's page opens.
"""

import asyncio
import time
from collections import Counter
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from clawai.plugins.gateway.fields import BadRequest
from clawai.plugins.gateway.web import texts
from clawai.plugins.gateway.web.site import ROOT, Site
from clawai.sdk import timeline
from clawai.sdk.timeline import Piece

SPANS = (60, 180, 600)
"""Seconds that can be looked at."""
FRESH = 1.0
"""Seconds for which an answer of the kernel serves all who look."""
BARS = 400
"""Of one task: more are joined by what they are."""
LISTED = 60
"""Tasks in the table, the latest."""
KINDS = (
    "running", "behind", "loading", "memory", "batching", "held", "suspended", "ending", "other",
)  # fmt: skip
"""What a bar can be; each has a colour and a text ``kind.NAME``."""
_OF_WAITS = {
    "behind": "behind",
    "reserved": "behind",
    "starting": "loading",
    "loading": "loading",
    "weights": "loading",
    "memory": "memory",
    "later": "memory",
    "batching": "batching",
    "suspended": "suspended",
}


def kind(piece: Piece) -> str:
    """Of ``KINDS``."""
    if piece.phase == "queued":
        return _OF_WAITS.get(piece.why, "other")
    return piece.phase


class Timeline:
    """The view."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._kept: dict[int, tuple[float, Any]] = {}
        self._asking = asyncio.Lock()

    async def data(self, request: Request) -> dict[str, Any]:
        """What the template needs."""
        seconds = _seconds(request)
        told = await self._told(seconds)
        return {"seconds": seconds, "spans": SPANS, "kinds": KINDS} | self._table(request, told)

    async def bars(self, request: Request) -> Response:
        """Bars for the picture, and the table as a piece."""
        told = await self._told(_seconds(request))
        # In a thread: of a busy box this takes a while, and others want their answers meanwhile.
        words = self._site.texts[texts.wanted(request)]
        found = await asyncio.to_thread(_bars, told, words)
        found["table"] = self._site.piece(
            request, "timeline/tasks.html", self._table(request, told)
        )
        return self._site.json(request, found)

    async def trace(self, request: Request) -> Response:
        """A file for Perfetto."""
        told = await self._told(_seconds(request))
        name = time.strftime("claw-%Y%m%d-%H%M%S.json")
        headers = {"content-disposition": f'attachment; filename="{name}"'}
        return self._site.json(request, await asyncio.to_thread(timeline.perfetto, told), headers)

    async def _told(self, seconds: int) -> Any:
        async with self._asking:
            when, told = self._kept.get(seconds, (0.0, None))
            if told is None or time.monotonic() - when > FRESH:
                told = await self._site.kernel.query(f"timeline:{seconds}")
                self._kept[seconds] = time.monotonic(), told
        return told

    def _table(self, request: Request, told: Any) -> dict[str, Any]:
        words = self._site.texts[texts.wanted(request)]
        rows = [_row(told, task, words) for task in told["tasks"][-LISTED:]]
        more = len(told["tasks"]) - len(rows) + told["left_out"]
        return {"rows": rows[::-1], "more": more}


def _row(told: Any, task: Any, words: texts.Texts) -> dict[str, Any]:
    """A task for the table."""
    found = timeline.pieces(told, task)
    end = told["now"] if task["end"] is None else task["end"]
    why: Counter[str] = Counter()
    for piece in found:
        if piece.phase != "running":
            why[_said(piece, words)] += piece.end - piece.begin
    again = Counter(piece.again for piece in found if piece.again)
    return {
        "task": task,
        "title": timeline.title(told, task),
        "ago": (told["now"] - task["begin"]) / 1e9,
        "took": (end - task["begin"]) / 1e9,
        "ran": sum(p.end - p.begin for p in found if p.phase == "running") / 1e9,
        "why": [(said, took / 1e9) for said, took in why.most_common(3) if took >= 1_000_000],
        "again": [f"{words.of('why', name)} ×{count}" for name, count in again.items()],
    }


def _said(piece: Piece, words: texts.Texts) -> str:
    """Why, in the language of who looks."""
    why = piece.text if piece.why == "suspended" else piece.why
    said = words.of("why", f"{piece.phase}_{why}") if why else words("kind.running")
    if piece.others and piece.why not in ("memory", "reserved"):
        said += f" {', '.join(map(str, piece.others[:4]))}" + ("…" if len(piece.others) > 4 else "")
    return said


def _bars(told: Any, words: texts.Texts) -> dict[str, Any]:
    """All tasks as bars on rows, in milliseconds since the begin of what is told."""
    groups: dict[int, list[float]] = {}
    tasks, said = [], dict[str, int]()
    for task in told["tasks"]:
        found = _joined(timeline.pieces(told, task))
        if not found:
            continue
        until = groups.setdefault(task["queue"], [])
        row = next((at for at, end in enumerate(until) if end <= found[0].begin), len(until))
        until[row : row + 1] = [found[-1].end]
        tasks.append(
            {
                "id": task["id"],
                "run": task["run"],
                "op": task["op"],
                "title": timeline.title(told, task),
                "class": words.of("class", task["priority"]),
                "principal": task["principal"],
                "how": words.of("end", task["how"] or "open"),
                "group": task["queue"],
                "row": row,
                "bars": [
                    [
                        p.begin / 1e6, p.end / 1e6, KINDS.index(kind(p)),
                        said.setdefault(_said(p, words), len(said)),
                        words.of("why", p.again) if p.again else "",
                        f"{p.worker}.{p.slot}" if p.worker else "",
                    ]
                    for p in found
                ],
            }
        )  # fmt: skip
    order = sorted(groups)
    for task in tasks:
        task["group"] = order.index(task["group"])
    titles = [{"queue": place} for place in order]
    return {
        "begins": told["begins"] / 1e6,
        "now": told["now"] / 1e6,
        "groups": [
            {"title": timeline.title(told, title), "rows": len(groups[title["queue"]])}
            for title in titles
        ],
        "tasks": tasks,
        "said": list(said),
    }


def _joined(found: list[Piece]) -> list[Piece]:
    """Not more than ``BARS``: neighbours of one kind are joined where there are too many."""
    if len(found) <= BARS:
        return found
    joined: list[Piece] = []
    for piece in found:
        last = joined[-1] if joined else None
        if last and not piece.again and (last.phase, last.why) == (piece.phase, piece.why):
            joined[-1] = replace(last, end=piece.end)
        else:
            joined.append(piece)
    return joined


def _seconds(request: Request) -> int:
    """How far back.

    Raises:
        BadRequest: not one of ``SPANS``.
    """
    asked = request.query_params.get("seconds", str(SPANS[-1]))[:20]
    if asked not in map(str, SPANS):
        raise BadRequest(
            f"seconds is one of {', '.join(map(str, SPANS))}, not {asked!r}", "seconds"
        )
    return int(asked)


def routes(site: Site) -> list[Route]:
    """Its paths."""
    view = Timeline(site)
    return [
        site.view("timeline", view.data),
        Route(f"{ROOT}/timeline/bars", view.bars),
        Route(f"{ROOT}/timeline/trace.json", view.trace),
    ]
