// Graph: the steps of a model where the server has placed them, coloured by what is asked for.
import { byId, post, say, text } from "./page.js";
import { Picture, colours, element, facts, onColours } from "./picture.js";

const EVERY = 2000;
const NEAR = 0.42; // from this scale on steps are drawn, before it groups
const WORDS = 0.62; // from this scale on they have their names
const [WIDE, HIGH] = [132, 30];
const box = byId("picture");
let shown; // what the server said: profile, layout, paths, before
let before; // a saved profile, to compare with
let links = []; // of two groups each
let groups = []; // what is drawn of the layout's groups
let index = new Map(); // of nodes: their group
let values = [];
let ends = [0, 1]; // of the colours, from near
let far = [0, 1]; // and from afar
let path = new Set();
let wasNear;
let view = { x: 0, y: 0, scale: 1 };
let chosen = -1;
let asking = false;

const is = (name) => byId(name)?.getAttribute("aria-pressed") === "true";
const press = (name, on) => byId(name).setAttribute("aria-pressed", String(on));
const phase = () => byId("phase").value;
const heat = () => byId("heat").value;
const nodes = () => shown.profile.nodes;
const ns = (node, of = phase()) => shown.profile[of]?.ns[node.name] ?? 0;
const old = (place, of = phase()) => shown.before?.[of][place] ?? null;
const picture = box && new Picture(box, draw);

// Figures.

function time(nanoseconds) {
  if (!nanoseconds) return "–";
  if (nanoseconds >= 1e6) return `${(nanoseconds / 1e6).toFixed(2)} ms`;
  return `${(nanoseconds / 1e3).toFixed(1)} µs`;
}

function size(bytes) {
  if (!bytes) return "–";
  if (bytes >= 2 ** 20) return `${(bytes / 2 ** 20).toFixed(1)} MiB`;
  return bytes >= 1024 ? `${(bytes / 1024).toFixed(1)} KiB` : `${bytes} B`;
}

const rate = (node) => (ns(node, "decode") && node.bytes ? node.bytes / ns(node, "decode") : 0);
const speed = (node) => (rate(node) ? `${rate(node).toFixed(1)} GB/s` : "–");

function change(place) {
  const [now, then] = [ns(nodes()[place]), old(place)];
  return now && then ? now / then - 1 : null;
}

const percent = (part) => (part === null ? "–" : `${part > 0 ? "+" : ""}${(100 * part).toFixed(0)} %`);

// Heat.

/** Of a step; where equal layers are folded, the mean of all of them. */
function mean(place, figure) {
  const group = index.get(place);
  if (group.times === 1) return figure(place);
  const at = group.members.indexOf(place);
  let sum = 0;
  for (let copy = 0; copy < group.times; copy += 1) {
    sum += figure(group.all[copy * group.members.length + at]) ?? 0;
  }
  return sum / group.times;
}

const took = (place) => mean(place, (each) => ns(nodes()[each]));

function value(place) {
  const node = nodes()[place];
  switch (heat()) {
    case "rate":
      return rate(node);
    case "bytes":
      return node.bytes;
    case "dtype":
      return dtypes().indexOf(node.dtype);
    case "change":
      return change(place) ?? 0;
    default:
      return ns(node);
  }
}

const dtypes = () => [...new Set(nodes().map((node) => node.dtype))].sort();

function weigh() {
  values = nodes().map((_, place) => (drawn(place) ? mean(place, value) : 0));
  const real = values.filter((each) => each > 0);
  if (heat() === "change") {
    // The largest may be far out: the one before it is the end of the colours.
    const most = Math.max(0.1, values.map(Math.abs).sort((a, b) => a - b).at(-2) ?? 0);
    ends = [-most, most];
  } else if (heat() === "dtype") ends = [0, Math.max(1, dtypes().length - 1)];
  else {
    const most = real.reduce((one, other) => Math.max(one, other), 0) || 1;
    ends = [least(real, most), most];
  }
  const additive = heat() === "time" || heat() === "bytes";
  far = ends;
  for (const group of groups) {
    const mine = group.members.map((place) => values[place]);
    group.took = group.members.reduce((sum, place) => sum + took(place), 0);
    group.value = additive
      ? mine.reduce((one, other) => one + other, 0)
      : mine.reduce((one, other) => (Math.abs(other) > Math.abs(one) ? other : one), 0);
  }
  if (!additive) return;
  const sums = groups.map((group) => group.value).filter((each) => each > 0);
  const most = Math.max(1, ...sums);
  far = [least(sums, most), most];
}

/** Where the colours begin: small differences stay small. */
const least = (figures, most) =>
  Math.min(most / 4, Math.max(most / 500, figures.reduce((one, other) => Math.min(one, other), most)));

/** 0 to 1 along the colours; time and bytes by their logarithm, as they differ by powers of ten. */
function along(each, [from, to]) {
  if (heat() === "change" || heat() === "dtype") {
    return Math.min(1, Math.max(0, (each - from) / (to - from)));
  }
  if (each <= 0) return -1;
  return Math.min(1, Math.max(0, Math.log(each / from) / Math.log(to / from)));
}

let paint = {};
let ramp = [];

function mix() {
  paint = colours(["ink", "dim", "line", "soft", "panel", "accent", "c0", "c1", "c2", "c3", "c4", "c5", "bad", "good"]);
  const made = document.createElement("canvas");
  made.width = 101;
  made.height = 1;
  const context = made.getContext("2d", { willReadFrequently: true });
  const line = context.createLinearGradient(0, 0, 101, 0);
  const stops = heat() === "change" ? [paint.good, paint.soft, paint.bad] : [paint.soft, paint.c1, paint.bad];
  stops.forEach((colour, place) => line.addColorStop(place / 2, colour));
  context.fillStyle = line;
  context.fillRect(0, 0, 101, 1);
  const { data } = context.getImageData(0, 0, 101, 1);
  ramp = Array.from({ length: 101 }, (_, at) => data.slice(4 * at, 4 * at + 3));
}

const KEYS = ["c0", "c1", "c2", "c3", "c4", "c5"];

function colour(each, between = ends) {
  if (heat() === "dtype") return paint[KEYS[each % KEYS.length]];
  const at = along(each, between);
  if (at < 0) return paint.panel;
  const [red, green, blue] = ramp[Math.round(100 * at)];
  return `rgb(${red} ${green} ${blue})`;
}

/** Ink that can be read on a colour: the better of black and white. */
function ink(fill) {
  const found = fill.match(/\d+/g);
  if (fill.startsWith("#") || !found) {
    const whole = Number.parseInt(fill.slice(1, 7), 16);
    return light([whole >> 16, (whole >> 8) & 255, whole & 255]);
  }
  return light(found.map(Number));
}

const light = ([red, green, blue]) =>
  0.299 * red + 0.587 * green + 0.114 * blue > 140 ? "#111417" : "#ffffff";

// The picture.

function gather() {
  index = new Map();
  const seen = new Map();
  groups = [];
  for (const group of shown.layout.groups) {
    const first = is("fold") ? seen.get(group.build) : undefined;
    if (first) {
      first.times += 1;
      first.all.push(...group.members);
      for (const member of group.members) index.set(member, first);
      continue;
    }
    const made = { ...group, times: 1, all: [...group.members] };
    seen.set(group.build, made);
    groups.push(made);
    for (const member of group.members) index.set(member, made);
  }
  links = [];
  const done = new Set();
  nodes().forEach((node, place) => {
    for (const source of node.inputs) {
      const [from, to] = [index.get(source), index.get(place)];
      const pair = `${from.first}>${to.first}`;
      if (from === to || done.has(pair)) continue;
      done.add(pair);
      links.push([from, to]);
    }
  });
  if (!is("fold")) return;
  let x = 0;
  for (const group of groups) {
    group.dx = x - group.x;
    group.dy = -group.y;
    x += group.w + 40;
  }
}

const spot = (place) => {
  const group = index.get(place);
  const [x, y] = shown.layout.places[place];
  return [x + (group.dx ?? 0), y + (group.dy ?? 0)];
};

const drawn = (place) => !is("fold") || index.get(place).members.includes(place);

function name(group) {
  const layer = group.layer === null ? nodes()[group.first].name : `${text("layer")} ${group.layer}`;
  return group.times > 1 ? `${layer} ×${group.times}` : layer;
}

function draw(context, width, height) {
  if (!shown) return;
  box.dataset.scale = view.scale.toFixed(3);
  context.translate(-view.x * view.scale, -view.y * view.scale);
  context.scale(view.scale, view.scale);
  const near = view.scale >= NEAR;
  const inside = (x, y, w, h) =>
    x < view.x + width / view.scale &&
    x + w > view.x &&
    y < view.y + height / view.scale &&
    y + h > view.y;
  if (near !== wasNear) {
    wasNear = near;
    legend();
  }
  context.textBaseline = "middle";
  between(context);
  for (const group of groups) {
    const [x, y] = [group.x + (group.dx ?? 0), group.y + (group.dy ?? 0)];
    if (!inside(x, y, group.w, group.h)) continue;
    block(context, group, x, y, near);
    if (!near) continue;
    edges(context, group);
    for (const place of group.members) step(context, place, path.has(place));
  }
}

function block(context, group, x, y, near) {
  const fill = near ? paint.panel : colour(group.value, far);
  context.fillStyle = fill;
  context.strokeStyle = paint.line;
  context.lineWidth = 1 / view.scale;
  context.beginPath();
  context.roundRect(x, y, group.w, group.h, 8);
  context.fill();
  context.stroke();
  if (group.w * view.scale < 30) return;
  context.fillStyle = near ? paint.dim : ink(fill);
  const tall = near ? 12 : Math.min(44, 11 / view.scale);
  context.font = `600 ${tall}px system-ui, sans-serif`;
  context.save();
  context.clip();
  context.fillText(name(group), x + 8, y + tall * 0.85, group.w - 16);
  if (!near) {
    context.font = `${tall}px system-ui, sans-serif`;
    context.fillText(time(group.took), x + 8, y + tall * 2.2, group.w - 16);
  }
  context.restore();
}

/** Lines from group to group. */
function between(context) {
  context.strokeStyle = paint.dim;
  context.lineWidth = 1.2 / view.scale;
  context.globalAlpha = 0.5;
  for (const [from, to] of links) {
    const [x, y] = [from.x + (from.dx ?? 0) + from.w, from.y + (from.dy ?? 0) + 20];
    const [u, v] = [to.x + (to.dx ?? 0), to.y + (to.dy ?? 0) + 20];
    context.beginPath();
    context.moveTo(x, y);
    if (u >= x) context.lineTo(u, v);
    else context.bezierCurveTo(x + 40, y + from.h, u - 40, v - 60, u, v);
    context.stroke();
  }
  context.globalAlpha = 1;
}

function edges(context, group) {
  context.strokeStyle = paint.dim;
  context.lineWidth = 1 / view.scale;
  for (const place of group.members) {
    const [x, y] = spot(place);
    for (const source of nodes()[place].inputs) {
      if (index.get(source) !== group || !drawn(source)) continue;
      const [u, v] = spot(source);
      context.beginPath();
      context.moveTo(u, v + HIGH / 2);
      if (y - v > 60) {
        context.bezierCurveTo(u + WIDE / 2 + 14, v + 30, x + WIDE / 2 + 14, y - 30, x + 20, y - HIGH / 2);
      } else context.lineTo(x, y - HIGH / 2);
      context.stroke();
    }
  }
}

function step(context, place, critical) {
  const [x, y] = spot(place);
  const node = nodes()[place];
  const fill = colour(values[place]);
  context.fillStyle = fill;
  context.strokeStyle = critical ? paint.accent : paint.line;
  context.lineWidth = critical ? 2.5 : 1;
  context.beginPath();
  context.roundRect(x - WIDE / 2, y - HIGH / 2, WIDE, HIGH, 5);
  context.fill();
  context.stroke();
  if (place === chosen) {
    context.strokeStyle = paint.ink;
    context.lineWidth = 3;
    context.strokeRect(x - WIDE / 2 - 4, y - HIGH / 2 - 4, WIDE + 8, HIGH + 8);
  }
  if (view.scale < WORDS) return;
  context.fillStyle = ink(fill.startsWith("rgb") || fill.startsWith("#") ? fill : "#ffffff");
  context.font = "600 10px system-ui, sans-serif";
  context.fillText(short(node), x - WIDE / 2 + 6, y - 6, WIDE - 12);
  context.font = "10px system-ui, sans-serif";
  const told = heat() === "change" ? percent(mean(place, change) || change(place)) : `${time(took(place))} · ${node.dtype}`;
  context.fillText(told, x - WIDE / 2 + 6, y + 7, WIDE - 12);
}

const short = (node) => node.name.replaceAll(/blk\.\d+\./g, "");

// What is looked at.

function extent() {
  const right = Math.max(...groups.map((group) => group.x + (group.dx ?? 0) + group.w));
  const bottom = Math.max(...groups.map((group) => group.y + (group.dy ?? 0) + group.h));
  return [right, bottom];
}

function whole() {
  if (!shown) return;
  const [right, bottom] = extent();
  const scale = Math.min(1.4, (picture.width - 24) / right, (picture.height - 24) / bottom);
  view = { scale, x: right / 2 - picture.width / 2 / scale, y: bottom / 2 - picture.height / 2 / scale };
  picture.again();
}

function zoom(factor, x = picture.width / 2, y = picture.height / 2) {
  const scale = Math.min(3, Math.max(0.005, view.scale * factor));
  view.x += x / view.scale - x / scale;
  view.y += y / view.scale - y / scale;
  view.scale = scale;
  picture.again();
}

function move(dx, dy) {
  view.x -= dx / view.scale;
  view.y -= dy / view.scale;
  picture.again();
}

function pick(x, y) {
  if (!shown) return;
  const [u, v] = [view.x + x / view.scale, view.y + y / view.scale];
  const group = groups.find((each) => {
    const [left, top] = [each.x + (each.dx ?? 0), each.y + (each.dy ?? 0)];
    return u >= left && u <= left + each.w && v >= top && v <= top + each.h;
  });
  if (group && view.scale < NEAR) {
    zoom((NEAR * 1.9) / view.scale, x, y);
    return;
  }
  const found = group?.members.find((place) => {
    const [left, top] = spot(place);
    return Math.abs(u - left) <= WIDE / 2 && Math.abs(v - top) <= HIGH / 2;
  });
  choose(found ?? -1);
}

function choose(place, bring = false) {
  chosen = place;
  const where = byId("chosen");
  if (place < 0) where.replaceChildren();
  else where.replaceChildren(about(place));
  if (place >= 0 && bring) {
    const shown_place = drawn(place) ? place : index.get(place).members[0];
    const [x, y] = spot(shown_place);
    view.scale = Math.max(view.scale, 0.9);
    view.x = x - picture.width / 2 / view.scale;
    view.y = y - picture.height / 2 / view.scale;
  }
  picture.again();
}

function about(place) {
  const node = nodes()[place];
  return facts([
    [text("step"), node.name],
    [text("ops"), node.ops.join(" + ")],
    [text("shape"), node.shape.join(" × ")],
    [text("dtype"), node.dtype],
    [text("device"), `${shown.profile.device} ${shown.profile.isa}`.trim()],
    [text("reads"), size(node.bytes)],
    [text("token"), ns(node, "decode") || !shown.profile.decode ? time(ns(node, "decode")) : text("folded")],
    [text("prompt"), time(ns(node, "prefill"))],
    [text("rate"), speed(node)],
    [text("change"), percent(change(place))],
  ]);
}

// The table, and what stands above the picture.

function table() {
  const rows = byId("rows");
  const order = nodes()
    .map((node, place) => [ns(node), place])
    .sort((one, other) => other[0] - one[0] || one[1] - other[1]);
  const made = order.slice(0, Number(rows.dataset.most)).map(([, place]) => {
    const node = nodes()[place];
    const row = document.createElement("tr");
    const head = element("th", "", { scope: "row" });
    const button = element("button", node.name, { type: "button" });
    button.dataset.place = place;
    head.append(button);
    const cell = (words, figure) => element("td", words, { className: figure ? "n" : "" });
    row.append(
      head,
      cell(node.ops.join(" + ")),
      cell(node.shape.join(" × ")),
      cell(node.dtype),
      cell(size(node.bytes), true),
      cell(time(ns(node, "decode")), true),
      cell(time(ns(node, "prefill")), true),
      cell(speed(node), true),
      cell(percent(change(place)), true),
      cell(path.has(place) ? "✓" : ""),
    );
    return row;
  });
  rows.replaceChildren(...made);
}

function sums() {
  const all = (of) => Object.values(shown.profile[of]?.ns ?? {}).reduce((sum, each) => sum + each, 0);
  const told = [`${shown.profile.model}: ${nodes().length} ${text("steps")}`];
  for (const [of, words] of [["decode", "token"], ["prefill", "prompt"]]) {
    if (!all(of)) continue;
    const then = shown.before?.[`${of}_sum`];
    const more = then ? ` (${text("before")} ${time(then)}, ${percent(all(of) / then - 1)})` : "";
    told.push(`${text(words)} ${time(all(of))}${more}, ${text("longest")} ${time(shown.paths[of].ns)}`);
  }
  if (told.length === 1) told.push(text("idle"));
  byId("sums").textContent = told.join(" · ");
}

function legend() {
  const kinds = { time, bytes: size, rate: (each) => `${each.toFixed(1)} GB/s`, change: percent };
  const words = kinds[heat()];
  const scale = wasNear ? ends : far;
  const place = byId("legend");
  place.hidden = false;
  const canvas = place.querySelector("canvas");
  canvas.hidden = !words;
  byId("least").textContent = words ? words(scale[0]) : "";
  byId("most").textContent = words ? words(scale[1]) : dtypes().join(", ");
  if (!words) return;
  const context = canvas.getContext("2d");
  for (let x = 0; x < 140; x += 1) {
    context.fillStyle = `rgb(${[...ramp[Math.round((100 * x) / 139)]].join(" ")})`;
    context.fillRect(x, 0, 1, 10);
  }
}

function all() {
  if (!shown) return;
  path = new Set(shown.paths[phase()]?.nodes);
  gather();
  weigh();
  mix();
  legend();
  table();
  sums();
  if (chosen >= 0) choose(chosen);
  picture.again();
}

// What is asked.

async function take(answer) {
  if (!answer) return false;
  const told = await answer.json();
  const same = shown?.profile.nodes.length === told.profile.nodes.length && shown.profile.model === told.profile.model;
  shown = told;
  if (!same) chosen = -1;
  byId("save").disabled = false;
  all();
  if (!same) whole();
  box.dataset.steps = nodes().length;
  return true;
}

async function measure(live = false) {
  if (asking) return;
  asking = true;
  if (!live) byId("sums").textContent = text("measuring");
  byId("measure").disabled = true;
  try {
    const answer = await post("/page/graph/profile", { model: byId("model").value, live });
    if ((await take(answer)) && before) await compare();
    if (!answer) {
      press("live", false);
      byId("sums").textContent = "";
    }
  } finally {
    asking = false;
    byId("measure").disabled = false;
  }
}

async function compare() {
  const answer = await post("/page/graph/show", { profile: shown?.profile ?? before, before });
  if (!answer) return;
  const option = byId("heat").querySelector("[value=change]");
  option.disabled = false;
  byId("heat").value = "change";
  await take(answer);
  weigh();
  all();
}

async function load(file) {
  try {
    before = JSON.parse(await file.text());
  } catch {
    say(text("wrong"));
    return;
  }
  await compare();
}

function save() {
  const blob = new Blob([JSON.stringify(shown.profile)], { type: "application/json" });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `${shown.profile.model || "model"}-profile.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

async function forever() {
  while (is("live")) {
    if (!document.hidden) await measure(true);
    await new Promise((done) => setTimeout(done, EVERY));
  }
}

function next(by) {
  if (!shown) return;
  const count = nodes().length;
  choose(Math.max(0, Math.min(count - 1, chosen < 0 ? 0 : chosen + by)), true);
}

if (picture) {
  picture.hand({ move, scale: zoom, pick });
  picture.keys({
    ArrowLeft: () => move(picture.width / 8, 0),
    ArrowRight: () => move(-picture.width / 8, 0),
    ArrowUp: () => move(0, picture.height / 8),
    ArrowDown: () => move(0, -picture.height / 8),
    n: () => next(1),
    p: () => next(-1),
    "+": () => zoom(1.4),
    "=": () => zoom(1.4),
    "-": () => zoom(1 / 1.4),
    Home: whole,
    Escape: () => choose(-1),
  });
  byId("closer").addEventListener("click", () => zoom(1.4));
  byId("farther").addEventListener("click", () => zoom(1 / 1.4));
  byId("whole").addEventListener("click", whole);
  byId("measure").addEventListener("click", () => measure());
  byId("live").addEventListener("click", () => {
    press("live", !is("live"));
    if (is("live")) forever();
  });
  byId("fold").addEventListener("click", () => {
    press("fold", !is("fold"));
    all();
    whole();
  });
  byId("phase").addEventListener("change", all);
  byId("heat").addEventListener("change", all);
  byId("save").addEventListener("click", save);
  byId("before").addEventListener("change", (event) => event.target.files[0] && load(event.target.files[0]));
  // The same file may be chosen again when it has changed.
  byId("before").addEventListener("click", (event) => (event.target.value = ""));
  byId("rows").addEventListener("click", (event) => {
    const { place } = event.target.dataset;
    if (place === undefined) return;
    choose(Number(place), true);
    box.scrollIntoView({ block: "nearest" });
  });
  onColours(all);
}
