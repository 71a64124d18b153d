// Logs: lines as they come, the filters, what is older.
import { byId, listen, patch, say } from "./page.js";

const MOST = 3000;
const log = byId("log");
const lines = byId("lines");
const form = byId("wanted");
const pause = byId("pause");
let stop = () => {};
let waiting = [];
let typed = 0;

const asked = () => {
  const fields = [...new FormData(form)].filter(([, value]) => value);
  return new URLSearchParams(fields);
};

const paused = () => pause.getAttribute("aria-pressed") === "true";

const atEnd = () => log.scrollHeight - log.scrollTop - log.clientHeight < 40;

const toEnd = () => (log.scrollTop = log.scrollHeight);

function add(markup) {
  const follow = atEnd();
  lines.insertAdjacentHTML("beforeend", markup);
  while (lines.childElementCount > MOST) lines.firstElementChild.remove();
  byId("no-lines").hidden = lines.childElementCount > 0;
  if (follow) toEnd();
}

function follow() {
  stop();
  const address = asked();
  address.set("at", log.dataset.end);
  stop = listen(`/page/logs/live?${address}`, {
    lines: (markup) => (paused() ? waiting.push(markup) : add(markup)),
    boxes: (markup) => patch(byId("boxes"), markup),
    trouble: say,
  });
}

async function ask(at) {
  const address = asked();
  if (at) address.set("at", at);
  const answer = await fetch(`/page/logs/older?${address}`);
  const said = await answer.json();
  if (!answer.ok) {
    say(said.error.message);
    return undefined;
  }
  log.dataset.begin = said.begin;
  byId("older").hidden = !said.more;
  return said;
}

async function again() {
  if (!form.reportValidity()) return;
  const mine = ++typed;
  const said = await ask();
  if (!said || mine !== typed) return;
  lines.replaceChildren();
  waiting = [];
  log.dataset.end = said.end;
  add(said.lines);
  toEnd();
  history.replaceState(null, "", `?${asked()}`);
  follow();
}

let later = 0;
form.addEventListener("input", () => {
  clearTimeout(later);
  later = setTimeout(again, 200);
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  again();
});

pause.addEventListener("click", () => {
  pause.setAttribute("aria-pressed", String(!paused()));
  if (!paused()) {
    waiting.splice(0).forEach(add);
    toEnd();
  }
});

byId("older").addEventListener("click", async () => {
  const said = await ask(log.dataset.begin);
  if (!said) return;
  const before = log.scrollHeight;
  lines.insertAdjacentHTML("afterbegin", said.lines);
  log.scrollTop += log.scrollHeight - before;
});

toEnd();
follow();
