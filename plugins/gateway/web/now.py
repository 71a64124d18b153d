"""Now: what the box does at this moment, who holds what, and what a person can do about it."""

import time
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from clawai.plugins.gateway.answers import told
from clawai.plugins.gateway.web.live import Pieces, Watch, event, stream
from clawai.plugins.gateway.web.site import ROOT, Site
from clawai.sdk import wire
from clawai.sdk.errors import ClawError

PIECES = ("machine", "ledger", "models", "boxes", "plugins", "queue")
EVERY = 1.0
"""Seconds between two looks,"""
BUSY_EVERY = 4.0
"""while the box has nothing to spare, so that who looks takes less of it,"""
BUSY = 0.9
"""which is where more of its processors is in use;"""
SELDOM = 5.0
"""and between two at what is read from files."""
LEAST = 0.2
"""Seconds of which a share of the processor can be told."""
HISTORY = 60
TASKS = 40
"""Of the queue that are shown; the others are counted."""
HUES = 6


class Pin(msgspec.Struct, forbid_unknown_fields=True):
    """Keep what has a name loaded, or no more."""

    name: str
    pinned: bool


class Stop(msgspec.Struct, forbid_unknown_fields=True):
    """Unload what has a name."""

    name: str


class Rates:
    """What is made of the counters of two looks at the machine."""

    def __init__(self) -> None:
        self._last: dict[str, Any] = {}
        self._found: dict[str, Any] = {"busy": None, "workers": {}, "watts": None}
        self._history: deque[float] = deque(maxlen=HISTORY)

    def of(self, box: dict[str, Any]) -> dict[str, Any]:
        """Part of the box that is busy and its history, processors by worker, watts."""
        last = self._last or box
        seconds = box["seconds"] - last["seconds"]
        if seconds >= LEAST or not self._last:
            self._last = box
        if seconds >= LEAST:
            self._found = {
                "busy": self._busy(last, box),
                "workers": _shares(last, box, seconds),
                "watts": _watts(last, box, seconds),
            }
            self._history.append(self._found["busy"] or 0.0)
        return {**self._found, "history": list(self._history)}

    def _busy(self, last: dict[str, Any], box: dict[str, Any]) -> float | None:
        total = box["total_ticks"] - last["total_ticks"]
        return 1 - (box["idle_ticks"] - last["idle_ticks"]) / total if total > 0 else None


def _shares(last: dict[str, Any], box: dict[str, Any], seconds: float) -> dict[int, float]:
    """Processors that each worker used."""
    before, rate = last["workers"], box["ticks_a_second"]
    return {
        number: max(0, ticks - before[number]) / rate / seconds
        for number, ticks in box["workers"].items()
        if number in before
    }


def _watts(last: dict[str, Any], box: dict[str, Any], seconds: float) -> float | None:
    """Of all packages; none in the moment in which a counter begins anew."""
    before = {each["name"]: each["microjoules"] for each in last["energy"]}
    used = [e["microjoules"] - before.get(e["name"], 0) for e in box["energy"]]
    return sum(used) / 1e6 / seconds if used and min(used) >= 0 and before else None


class Now:
    """The view."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._watch = Watch(site, self._look, _pause)
        self._rates = Rates()
        self._files: tuple[float, list[Any], list[Any]] = (0.0, [], [])

    async def data(self, _: Request) -> dict[str, Any]:
        """What the template needs."""
        found: dict[str, Any] = await self._watch.now()
        return found

    async def live(self, request: Request) -> Response:
        """The pieces that change."""
        return stream(self._site, request, self._pieces(request))

    async def pin(self, _: Request, asked: Pin) -> dict[str, Any]:
        """Do it; what was changed."""
        command = "pin" if asked.pinned else "unpin"
        return await self._steer(command, asked.name)

    async def stop(self, _: Request, asked: Stop) -> dict[str, Any]:
        """Do it; what was stopped."""
        return await self._steer("unload", asked.name)

    async def _steer(self, command: str, name: str) -> dict[str, Any]:
        done: dict[str, Any] = await self._site.kernel.admin(command, name)
        self._watch.hurry()
        return done

    async def _pieces(self, request: Request) -> AsyncIterator[bytes]:
        pieces = Pieces()
        async for seen in self._watch.each():
            if isinstance(seen, ClawError):
                yield event("trouble", told(seen))
                continue
            made = {n: self._site.piece(request, f"now/{n}.html", seen) for n in PIECES}
            if changed := pieces.changed(made):
                yield event("pieces", changed)

    async def _look(self) -> dict[str, Any]:
        ask = self._site.kernel.query
        status, box = await ask("status"), await ask("box")
        workers = (await ask("workers"))["workers"]
        tasks = (await ask("tasks"))["tasks"]
        now = time.monotonic()
        when, plugins, models = self._files
        if now - when > SELDOM:
            plugins = (await ask("plugins"))["plugins"]
            models = (await ask("models"))["models"]
            self._files = now, plugins, models
        rates = self._rates.of(box)
        for row in workers:
            row["processors"] = rates["workers"].get(row["worker"])
        asked = [ask for row in plugins if row["name"] == "gateway" for ask in row["asks"]]
        return {
            "status": status,
            "box": box,
            "rates": rates,
            "line": _line(rates["history"]),
            "hottest": max((each["celsius"] for each in box["temperatures"]), default=None),
            "holders": _holders(workers, status["used_bytes"]),
            "models": _models(models, workers),
            "plugins": _plugins(plugins, workers),
            "boxes": await self._site.boxes.known(),
            "queue": _queue(tasks),
            "rights": {each["what"] for each in asked if each["kind"] == "kernel"}
            if self._site.changes
            else set(),
        }


def _pause(seen: dict[str, Any] | Exception) -> float:
    """Seconds until the next look."""
    busy = None if isinstance(seen, Exception) else seen["rates"]["busy"]
    return EVERY if busy is None or busy < BUSY else BUSY_EVERY


def _line(history: list[float]) -> str:
    """Points of a line through the last looks, in a box of ``HISTORY`` by 1."""
    start = HISTORY - len(history)
    return " ".join(f"{start + place},{1 - part:.3f}" for place, part in enumerate(history))


def _holders(workers: list[dict[str, Any]], used: int) -> list[dict[str, Any]]:
    """Who holds memory of the ledger, from the oldest on; what no worker holds comes last."""
    held: defaultdict[str, int] = defaultdict(int)
    for row in sorted(workers, key=lambda row: int(row["worker"])):
        held[row["model"] or row["plugin"]] += row["bytes"]
    rest = used - sum(held.values())
    found: list[dict[str, Any]] = []
    start = 0
    for place, (name, size) in enumerate([*held.items(), ("", max(0, rest))]):
        if size:
            hue = place % HUES
            found.append({"name": name, "bytes": size, "hue": hue, "start": start})
        start += size
    return found


def _models(stored: list[dict[str, Any]], workers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every stored model with its worker; also one that is loaded, and stored no more."""
    busy = {row["model"]: row for row in workers if row["model"]}
    rows = {row["name"]: row for row in stored}
    gone = {name: {"name": name, "problem": ""} for name in busy if name not in rows}
    found = [{**row, "worker": busy.get(name)} for name, row in {**rows, **gone}.items()]
    return sorted(found, key=lambda row: (row["worker"] is None, row["name"]))


def _plugins(known: list[dict[str, Any]], workers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every plugin with what its workers come to."""
    found = []
    for row in known:
        mine = [each for each in workers if each["plugin"] == row["name"]]
        shares = [each["processors"] for each in mine if each["processors"] is not None]
        ours = {
            "running": len(mine),
            "pinned": any(each["pinned"] for each in mine),
            "bytes": sum(each["bytes"] for each in mine),
            "processors": sum(shares) if shares else None,
            # Its models are stopped one by one; and who stops the gateway stops this page.
            "steered": bool(mine) and row["kind"] == "tool" and row["name"] != "gateway",
        }
        found.append({**row, **ours})
    return sorted(found, key=lambda row: (not row["running"], row["name"]))


def _queue(tasks: list[dict[str, Any]]) -> dict[str, Any]:
    """By class how many wait and run, and the tasks that are next."""
    order = {name: place for place, name in enumerate(wire.PRIORITIES)}
    waits = Counter(row["priority"] for row in tasks if row["position"] is not None)
    runs = Counter(row["priority"] for row in tasks if row["position"] is None)
    rows = sorted(
        tasks, key=lambda row: (row["position"] is not None, order[row["priority"]], row["task"])
    )
    return {
        "classes": [{"name": n, "waiting": waits[n], "running": runs[n]} for n in wire.PRIORITIES],
        "most": max(1, *waits.values(), *runs.values()) if tasks else 1,
        "rows": rows[:TASKS],
        "more": max(0, len(rows) - TASKS),
    }


def routes(site: Site) -> list[Route]:
    """Its paths."""
    view = Now(site)
    return [
        site.view("now", view.data),
        Route(f"{ROOT}/now/live", view.live),
        site.act("/now/pin", Pin, view.pin),
        site.act("/now/stop", Stop, view.stop),
    ]
