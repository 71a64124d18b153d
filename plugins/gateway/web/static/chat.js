// Chat with a model by the path that other programs use: streamed, and ended when it is not wanted.
import { byId, post } from "./page.js";
import { showsCode } from "./code.js";

const form = byId("ask");
const text = byId("text");
const talk = byId("talk");
const state = byId("state");
const messages = [];
let running;

const body = (said) => ({
  messages: said,
  temperature: Number(byId("temperature").value),
  max_tokens: Number(byId("longest").value),
});

const changed = showsCode(() => ({
  op: "llm.generate",
  chat: true,
  model: byId("model").value,
  priority: byId("priority").value,
  params: body([...messages, { role: "user", content: text.value || "…" }]),
}));
form.addEventListener("input", changed);

function show(who, words) {
  byId("hint").hidden = true;
  const place = document.createElement("div");
  place.className = `said ${who}`;
  const name = document.createElement("b");
  name.textContent = who === "you" ? talk.dataset.you : byId("model").value;
  const said = document.createElement("div");
  said.textContent = words;
  place.append(name, said);
  talk.append(place);
  talk.scrollTop = talk.scrollHeight;
  return said;
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (running || !text.value.trim()) return;
  messages.push({ role: "user", content: text.value });
  show("you", text.value);
  text.value = "";
  const said = show("model", "");
  running = new AbortController();
  byId("go").disabled = true;
  byId("stop").disabled = false;
  state.textContent = "";
  await answer(said);
  if (said.textContent) messages.push({ role: "assistant", content: said.textContent });
  else {
    messages.pop();
    said.parentElement.remove();
  }
  running = undefined;
  byId("go").disabled = false;
  byId("stop").disabled = true;
  text.focus();
  changed();
});

async function answer(said) {
  const asked = {
    model: byId("model").value,
    ...body(messages),
    priority: byId("priority").value,
    stream: true,
    stream_options: { include_usage: true },
  };
  const began = performance.now();
  let first = 0;
  let usage;
  try {
    const answer = await post("/v1/chat/completions", asked, { signal: running.signal });
    if (!answer) return;
    for await (const event of events(answer.body)) {
      if (event.error) throw new Error(event.error.message);
      usage = event.usage ?? usage;
      const piece = event.choices?.[0]?.delta?.content;
      if (!piece) continue;
      first ||= performance.now() - began;
      const follow = talk.scrollHeight - talk.scrollTop - talk.clientHeight < 60;
      said.textContent += piece;
      if (follow) talk.scrollTop = talk.scrollHeight;
    }
  } catch (error) {
    state.textContent = error.name === "AbortError" ? state.dataset.ended : error.message;
    return;
  }
  if (!usage) return;
  const seconds = (performance.now() - began - first) / 1000;
  const speed = (usage.completion_tokens - 1) / Math.max(seconds, 1e-3);
  state.textContent = state.dataset.done
    .replace("%t", usage.completion_tokens)
    .replace("%f", Math.round(first))
    .replace("%s", speed.toFixed(1));
}

/** The events of a stream. */
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (part.startsWith("data: ") && data !== "[DONE]") yield JSON.parse(data);
    }
  }
}

byId("stop").addEventListener("click", () => running?.abort());

byId("new").addEventListener("click", () => {
  running?.abort();
  messages.length = 0;
  for (const each of talk.querySelectorAll(".said")) each.remove();
  byId("hint").hidden = false;
  state.textContent = "";
  text.focus();
  changed();
});

text.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    form.requestSubmit();
  }
});
