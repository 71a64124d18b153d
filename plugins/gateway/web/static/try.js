// Try an operation: its form, what becomes of the task, and the request as code.
import { byId, post, say } from "./page.js";
import { showsCode } from "./code.js";
import { base64, bytesOf, picture, tensorOf } from "./files.js";

const form = byId("ask");
const state = byId("state");
const answer = byId("answer");
const MOST = 5_900_000;
const files = new Map();
let running;

/** What the form says; null, after telling why, if it is not complete. */
async function request(quiet = false) {
  const body = { op: form.dataset.op, params: {}, frames: [] };
  if (byId("model")) body.model = byId("model").value;
  body.priority = byId("priority").value;
  for (const field of form.querySelectorAll("[data-kind]")) {
    field.removeAttribute("aria-invalid");
    try {
      await value(field, body);
    } catch (error) {
      if (quiet) return null;
      field.setAttribute("aria-invalid", "true");
      field.focus();
      say(`${field.dataset.field ?? ""} ${error.message}`);
      return null;
    }
  }
  return body;
}

async function value(field, body) {
  const { kind, field: name } = field.dataset;
  if (kind === "whole") body.params = JSON.parse(field.value || "{}");
  else if (kind === "boolean") body.params[name] = field.checked;
  else if (kind === "tensor" || kind === "bytes") await file(field, body);
  else if (!field.checkValidity()) throw new Error(field.validationMessage);
  else if (field.value === "" && !(field.required && kind === "text")) return;
  else if (kind === "integer" || kind === "number") body.params[name] = Number(field.value);
  else if (kind === "json") body.params[name] = JSON.parse(field.value);
  else body.params[name] = field.value;
}

async function file(field, body) {
  const { kind, field: name } = field.dataset;
  const chosen = files.get(name);
  if (!chosen) {
    if (field.required) throw new Error(field.validationMessage);
    return;
  }
  if (kind === "bytes") {
    body.params[name] = await base64(chosen.bytes);
    return;
  }
  const { dtype, shape, bytes } = chosen;
  body.params[name] = { dtype, shape, frame: body.frames.length };
  body.frames.push(await base64(bytes));
}

const changed = showsCode(() => request(true));
form.addEventListener("input", changed);

// Files: chosen or dropped.

async function take(field, chosen) {
  const said = field.parentElement.querySelector("output");
  files.delete(field.dataset.field);
  said.textContent = said.dataset.empty;
  if (chosen) {
    try {
      const whole = { bytes: new Uint8Array(await chosen.arrayBuffer()) };
      const read = field.dataset.kind === "tensor" ? await tensorOf(chosen) : whole;
      if (read.bytes.length > MOST) throw new Error(`${read.bytes.length} > ${MOST} B`);
      files.set(field.dataset.field, read);
      const what = read.shape ? `${read.dtype} [${read.shape.join(", ")}]` : `${read.bytes.length} B`;
      said.textContent = `${chosen.name} → ${what}`;
    } catch (error) {
      say(`${chosen.name}: ${error.message}`);
    }
  }
  changed();
}

for (const place of document.querySelectorAll(".takes")) {
  const field = place.querySelector("input");
  field.addEventListener("change", () => take(field, field.files[0]));
  place.addEventListener("dragover", (event) => {
    event.preventDefault();
    place.classList.add("over");
  });
  place.addEventListener("dragleave", () => place.classList.remove("over"));
  place.addEventListener("drop", (event) => {
    event.preventDefault();
    place.classList.remove("over");
    take(field, event.dataTransfer.files[0]);
  });
}

// The task.

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const body = await request();
  if (!body || running) return;
  running = new AbortController();
  byId("go").disabled = true;
  byId("stop").disabled = false;
  answer.textContent = "";
  byId("seen").replaceChildren();
  state.textContent = state.dataset.runs;
  const began = performance.now();
  try {
    const said = await post("/page/try/run", body, { signal: running.signal });
    if (said) await read(said.body, began);
    else state.textContent = state.dataset.failed;
  } catch (error) {
    if (error.name !== "AbortError") say(error.message);
    state.textContent = state.dataset.failed;
  }
  if (running.signal.aborted) state.textContent = state.dataset.ended;
  running = undefined;
  byId("go").disabled = false;
  byId("stop").disabled = true;
});

byId("stop").addEventListener("click", () => running?.abort());

async function read(body, began) {
  let rest = "";
  for await (const piece of texts(body)) {
    const lines = (rest + piece).split("\n");
    rest = lines.pop();
    for (const line of lines) hear(JSON.parse(line), began);
  }
}

async function* texts(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value: piece } = await reader.read();
    if (done) return;
    yield piece;
  }
}

function hear(said, began) {
  if (said.error) {
    state.textContent = state.dataset.failed;
    answer.textContent += `${said.error.code}: ${said.error.message}`;
  } else if ("result" in said) {
    const took = Math.round(performance.now() - began);
    const parts = Object.entries(said.timings).map(
      ([name, us]) => `${name.replace(/_us$/, "")} ${(us / 1000).toFixed(1)}`,
    );
    state.textContent = `${state.dataset.done} ${took} ms · ${parts.join(" · ")} ms`;
    add(said.result);
    see(said.result, said.frames ?? []);
  } else if ("chunk" in said) {
    add(said.chunk);
  } else {
    const part = said.fraction === null ? "" : ` ${Math.round(100 * said.fraction)} %`;
    const place = said.position === null ? "" : ` ${said.position + 1}`;
    state.textContent = `${said.state}${place}${part} ${said.note}`;
  }
}

function add(data) {
  if (typeof data?.text === "string" && Object.keys(data).length === 1) {
    answer.textContent += data.text;
  } else {
    const flat = JSON.stringify(data) ?? "";
    const spread = flat.length > 80 ? JSON.stringify(data, null, 1) : flat;
    const line = typeof data === "string" ? data : spread;
    answer.textContent += `${answer.textContent && !answer.textContent.endsWith("\n") ? "\n" : ""}${line}`;
  }
}

/** Show arrays that are pictures. */
function see(result, frames) {
  for (const each of [result, ...Object.values(result ?? {})]) {
    if (!Array.isArray(each?.shape) || !frames[each.frame]) continue;
    const seen = picture(each, bytesOf(frames[each.frame]));
    if (seen) byId("seen").append(seen);
  }
}

// Another model has other things to say of an operation that its folder says nothing of.
byId("model")?.addEventListener("change", () => {
  if (!form.querySelector("[data-kind=whole]")) return;
  const model = byId("model").value;
  location.search = new URLSearchParams({ op: form.dataset.op, model });
});

