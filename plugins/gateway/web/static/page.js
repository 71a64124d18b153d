// What every view has: pieces of the page that the server sends anew, requests that change
// something, and whether the server is there.

/** Element of an id. */
export const byId = (id) => document.getElementById(id);

/** Text of the page's language that the server wrote beside the view. */
export const text = (key) => byId("texts")?.dataset[key] ?? key;

/**
 * Make `to` look like the markup, changing as little as can be, so that focus, selection and
 * scroll stay. Children that have data-key are told apart by it.
 */
export function patch(to, markup) {
  const made = document.createElement("template");
  made.innerHTML = markup;
  children(to, made.content);
}

function children(old, next) {
  const keyed = new Map();
  for (const child of old.children) {
    if (child.dataset?.key) keyed.set(child.dataset.key, child);
  }
  let at = old.firstChild;
  for (const wanted of [...next.childNodes]) {
    const key = wanted.dataset?.key;
    let found = key ? keyed.get(key) : at;
    if (found && !key && found.dataset?.key) found = undefined;
    if (found && same(found, wanted)) {
      if (found !== at) old.insertBefore(found, at);
      else at = at.nextSibling;
      update(found, wanted);
    } else {
      old.insertBefore(wanted, at);
    }
  }
  while (at) {
    const gone = at;
    at = at.nextSibling;
    gone.remove();
  }
}

const same = (one, other) => one.nodeType === other.nodeType && one.nodeName === other.nodeName;

function update(old, next) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== next.data) old.data = next.data;
    return;
  }
  if (next.dataset.same !== undefined) return; // the server knows that we have it as it is
  // What the person has opened or typed stays theirs.
  const theirs = old.nodeName === "DETAILS" ? ["open"] : [];
  for (const { name } of [...old.attributes]) {
    if (!next.hasAttribute(name) && !theirs.includes(name)) old.removeAttribute(name);
  }
  for (const { name, value } of next.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  children(old, next);
}

/** Listen to a stream of events; `on` has a function for each name. Closed with what is returned. */
export function listen(address, on) {
  const source = new EventSource(address);
  source.onopen = () => connected(true);
  source.onerror = () => connected(false);
  for (const [name, hear] of Object.entries(on)) {
    source.addEventListener(name, (event) => hear(JSON.parse(event.data)));
  }
  addEventListener("pagehide", () => source.close(), { once: true });
  return () => source.close();
}

// Milliseconds between two pieces.
const PAUSE = 20;

/**
 * Show pieces of the page as they come, while it can be seen: one after the other, so that who
 * waits for this processor has it in between.
 */
export function live(address, on = {}) {
  const waiting = [];
  let timer;
  let stop = () => {};
  const step = () => {
    const [id, markup] = waiting.shift();
    timer = waiting.length ? setTimeout(step, PAUSE) : undefined;
    patch(byId(id), markup);
  };
  const pieces = (news) => {
    waiting.push(...Object.entries(news));
    if (!timer) step();
  };
  const follow = () => {
    stop();
    stop = document.hidden ? () => {} : listen(address, { pieces, trouble: say, ...on });
  };
  document.addEventListener("visibilitychange", follow);
  follow();
}

function connected(is) {
  const mark = byId("link");
  if (!mark) return;
  mark.dataset.is = is ? "live" : "lost";
  const words = is ? mark.dataset.live : mark.dataset.lost;
  if (mark.textContent !== words) mark.textContent = words;
}

/** Tell the person something, for some seconds; screen readers say it. */
export function say(words) {
  const place = byId("said");
  place.textContent = words;
  place.hidden = !words;
  clearTimeout(say.later);
  say.later = setTimeout(() => (place.hidden = true), 8000);
}

/** Ask the server to do something; what it answers, or undefined after saying what is wrong. */
export async function post(address, body, options = {}) {
  try {
    const answer = await fetch(address, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
      ...options,
    });
    if (answer.ok) return answer;
    const said = await answer.json();
    say(said.error?.message ?? said.error ?? answer.statusText);
  } catch (error) {
    if (error.name !== "AbortError") say(byId("link").dataset.lost);
  }
  return undefined;
}
