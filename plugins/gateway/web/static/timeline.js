// Timeline: tasks as bars; what is drawn, what is chosen, and the keys.
import { byId, patch, say, text } from "./page.js";
import { Picture, colours, element, facts } from "./picture.js";

const EVERY = 2500;
const HEAD = 22; // of a group
const ROW = 18;
const SIDE = 8;
const STEPS = [2, 5, 10, 15, 30, 60, 120].map((each) => each * 1000);
const KINDS = ["c0", "c1", "c2", "c4", "c5", "c3", "warn", "bad", "dim"];
const box = byId("picture");
const seconds = byId("seconds");
const follow = byId("follow");
let told = { now: 1, begins: 0, groups: [], tasks: [], said: [] };
let view = { begin: 0, end: 1, top: 0 };
let chosen = "";
let failed = false;

const key = (task) => `${task.run}.${task.id}`;
const following = () => follow.getAttribute("aria-pressed") === "true";
const picture = new Picture(box, draw);

function tops() {
  let top = 20;
  return told.groups.map((group) => {
    const mine = top + HEAD;
    top = mine + group.rows * ROW + 6;
    return mine;
  });
}

const tall = () => 30 + told.groups.reduce((sum, group) => sum + HEAD + group.rows * ROW + 6, 0);

const across = (time) =>
  SIDE + ((time - view.begin) / (view.end - view.begin)) * (picture.width - 2 * SIDE);

function draw(context, width, height) {
  const names = [...new Set([...KINDS, "ink", "dim", "line", "soft", "accent", "panel", "ground", "on-accent"])];
  const paint = colours(names);
  context.font = "11px system-ui, sans-serif";
  context.textBaseline = "middle";
  scale(context, width, height, paint);
  if (!told.tasks.length) {
    context.fillStyle = paint.dim;
    context.fillText(text("empty"), 20, 60);
  }
  const top = tops();
  told.groups.forEach((group, place) => {
    const at = top[place] - view.top;
    context.fillStyle = paint.ink;
    context.fillText(group.title, SIDE, at - HEAD / 2 + 2);
    context.fillStyle = paint.line;
    context.fillRect(0, at - HEAD, width, 1);
  });
  for (const task of told.tasks) {
    const at = top[task.group] + task.row * ROW - view.top;
    if (at < -ROW || at > height) continue;
    bars(context, width, task, at, paint);
  }
  context.fillStyle = paint.panel;
  context.fillRect(0, 0, width, 19);
  marks(context, width, paint);
}

/** Milliseconds from mark to mark, a whole part of a second, a minute or ten. */
function step() {
  const wanted = (view.end - view.begin) / 8;
  if (wanted > 1000) return STEPS.find((each) => each >= wanted) ?? STEPS.at(-1);
  const power = 10 ** Math.floor(Math.log10(wanted));
  return [1, 2, 5, 10].map((each) => each * power).find((each) => each >= wanted);
}

/** The first mark, at a whole time of day. */
const mark = (each) => Math.ceil((told.begins + view.begin) / each) * each - told.begins;

function scale(context, width, height, paint) {
  const each = step();
  context.fillStyle = paint.line;
  for (let time = mark(each); time < view.end; time += each) {
    context.fillRect(Math.round(across(time)), 19, 1, height);
  }
}

function marks(context, width, paint) {
  const each = step();
  context.fillStyle = paint.dim;
  for (let time = mark(each); time < view.end; time += each) {
    context.fillText(clock(told.begins + time, each), across(time) + 3, 10);
  }
}

function clock(time, each) {
  const date = new Date(time);
  const two = (number) => String(number).padStart(2, "0");
  const whole = `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
  if (each >= 1000) return whole;
  const part = (time % 1000) / 1000;
  const digits = Math.min(6, Math.max(1, Math.ceil(-Math.log10(each / 1000))));
  return whole.slice(6) + part.toFixed(digits).slice(1);
}

function bars(context, width, task, at, paint) {
  const first = task.bars[0][0];
  const last = task.bars.at(-1)[1];
  if (last < view.begin || first > view.end) return;
  let drawn = -1;
  for (const [begin, end, kind, , again] of task.bars) {
    if (end < view.begin || begin > view.end) continue;
    const left = Math.max(-2, across(begin));
    const right = Math.min(width + 2, Math.max(across(end), left + 1));
    if (right <= drawn && !again) continue; // hidden by what is drawn at that place
    drawn = right;
    context.fillStyle = paint[KINDS[kind]];
    const thin = kind === 0 ? 0 : 4;
    context.fillRect(left, at + 1 + thin, Math.max(1, right - left), ROW - 4 - 2 * thin);
    if (again) {
      context.fillStyle = paint.ink;
      context.beginPath();
      context.moveTo(left - 4, at);
      context.lineTo(left + 4, at);
      context.lineTo(left, at + 6);
      context.fill();
    }
  }
  label(context, width, task, at, paint);
  if (key(task) === chosen) {
    context.strokeStyle = paint.accent;
    context.lineWidth = 2;
    context.strokeRect(across(first) - 1, at - 1, Math.max(4, across(last) - across(first) + 2), ROW);
  }
}

/** The name of a task, in the first part of its bars that has room for it. */
function label(context, width, task, at, paint) {
  const words = `${task.id} ${task.op}`;
  const room = context.measureText(words).width + 8;
  for (const [begin, end, kind] of task.bars) {
    const left = Math.max(SIDE - 4, across(begin));
    if (kind !== 0 || Math.min(width, across(end)) - left < room) continue;
    context.fillStyle = paint["on-accent"];
    context.fillText(words, left + 4, at + ROW / 2);
    return;
  }
}

// What is looked at.

function look(begin, end) {
  const span = Math.min(Math.max(end - begin, 0.05), told.now * 1.05 + 1);
  const middle = (begin + end) / 2;
  view.begin = Math.min(Math.max(middle - span / 2, -span / 2), told.now - span / 2);
  view.end = view.begin + span;
  box.dataset.span = Math.round(span);
  picture.again();
}

function whole() {
  const first = Math.min(told.now - 1, ...told.tasks.map((task) => task.bars[0][0]));
  const begin = told.tasks.length ? Math.max(first, -0.2 * told.now) : 0;
  view.top = 0;
  look(begin - 0.02 * (told.now - begin), told.now);
}

function zoom(factor, x = picture.width / 2) {
  const part = (x - SIDE) / (picture.width - 2 * SIDE);
  const at = view.begin + part * (view.end - view.begin);
  const span = Math.min((view.end - view.begin) / factor, told.now * 1.05 + 1);
  look(at - part * span, at + (1 - part) * span);
}

function move(dx, dy) {
  const time = (dx / picture.width) * (view.end - view.begin);
  if (dx) stop();
  view.top = Math.max(0, Math.min(view.top - dy, tall() - picture.height));
  look(view.begin - time, view.end - time);
}

function stop() {
  follow.setAttribute("aria-pressed", "false");
}

function pick(x, y) {
  const top = tops();
  const time = view.begin + ((x - SIDE) / (picture.width - 2 * SIDE)) * (view.end - view.begin);
  const slack = ((view.end - view.begin) / picture.width) * 4;
  const found = told.tasks.find((task) => {
    const at = top[task.group] + task.row * ROW - view.top;
    const inside = task.bars[0][0] - slack <= time && time <= task.bars.at(-1)[1] + slack;
    return y >= at && y < at + ROW && inside;
  });
  choose(found);
}

function choose(task) {
  chosen = task ? key(task) : "";
  const place = byId("chosen");
  place.replaceChildren(task ? about(task) : element("p", text("choose"), { className: "none" }));
  picture.again();
}

function about(task) {
  const all = document.createElement("div");
  const took = task.bars.at(-1)[1] - task.bars[0][0];
  all.append(
    facts([
      [text("task"), `${task.id} ${task.op}`],
      [text("for"), `${task.title} · ${task.principal}`],
      [text("class"), task.class],
      [text("took"), ms(took)],
      [text("end"), task.how],
    ]),
  );
  const list = document.createElement("ol");
  for (const [begin, end, , said, again, where] of task.bars.slice(-60)) {
    const words = [again, told.said[said], where && `${text("worker")} ${where}`, ms(end - begin)];
    list.append(element("li", words.filter(Boolean).join(" · ")));
  }
  all.append(list);
  return all;
}

function ms(time) {
  return time >= 1000 ? `${(time / 1000).toFixed(2)} s` : `${time.toPrecision(3)} ms`;
}

function next(by) {
  const order = told.tasks;
  if (!order.length) return;
  const at = order.findIndex((task) => key(task) === chosen);
  const to = at < 0 ? (by > 0 ? 0 : order.length - 1) : at + by;
  const task = order[Math.max(0, Math.min(order.length - 1, to))];
  stop();
  choose(task);
  const [first, last] = [task.bars[0][0], task.bars.at(-1)[1]];
  if (first < view.begin || last > view.end) {
    const span = Math.max(view.end - view.begin, 1.1 * (last - first));
    look(first - span * 0.05, first + span * 0.95);
  }
  const place = tops()[task.group] + task.row * ROW;
  if (place - view.top < 40) view.top = Math.max(0, place - 40);
  if (place - view.top > picture.height - 30) view.top = place - picture.height + 40;
}

// What is told.

async function ask() {
  try {
    const answer = await fetch(`/page/timeline/bars?seconds=${seconds.value}`);
    const said = await answer.json();
    if (!answer.ok) throw new Error(said.error?.message ?? answer.statusText);
    const shift = told.begins ? told.begins - said.begins : 0;
    told = said;
    const { table } = said;
    patch(byId("tasks"), table);
    view.begin += shift;
    view.end += shift;
    box.style.height = `${Math.round(Math.max(150, Math.min(tall() + 14, innerHeight * 0.6)))}px`;
    box.dataset.tasks = told.tasks.length;
    if (following()) whole();
    else picture.again();
    failed = false;
  } catch (error) {
    if (!failed && error.name !== "AbortError") say(error.message);
    failed = true;
  }
}

async function forever() {
  for (;;) {
    const began = performance.now();
    if (following() && !document.hidden) await ask();
    // Where there is much to tell, it is told less often.
    const pause = Math.max(EVERY, 4 * (performance.now() - began));
    await new Promise((done) => setTimeout(done, pause));
  }
}

picture.hand({ move, scale: (factor, x) => (stop(), zoom(factor, x)), pick });
picture.keys({
  ArrowLeft: () => move(picture.width / 8, 0),
  ArrowRight: () => move(-picture.width / 8, 0),
  ArrowUp: () => next(-1),
  ArrowDown: () => next(1),
  "+": () => (stop(), zoom(1.5)),
  "=": () => (stop(), zoom(1.5)),
  "-": () => (stop(), zoom(1 / 1.5)),
  Home: whole,
  Escape: () => choose(),
});
byId("closer").addEventListener("click", () => (stop(), zoom(1.5)));
byId("farther").addEventListener("click", () => (stop(), zoom(1 / 1.5)));
byId("whole").addEventListener("click", whole);
follow.addEventListener("click", () => {
  follow.setAttribute("aria-pressed", String(!following()));
  if (following()) ask();
});
seconds.addEventListener("change", () => {
  byId("trace").href = `/page/timeline/trace.json?seconds=${seconds.value}`;
  told.begins = 0;
  ask().then(whole);
});
forever();
