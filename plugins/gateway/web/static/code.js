// The request that is on the page, as curl, Python and bytes: shown when it is asked for.
import { byId, post } from "./page.js";

const SHORT = 1200;
let whole = {};
let later = 0;

/** Show what `request` gives, now if it is open and whenever it is opened; null: not complete. */
export function showsCode(request) {
  const place = byId("code");

  async function show() {
    if (!place.open) return;
    const body = await request();
    const answer = body && (await post("/page/try/code", body));
    if (!answer) return;
    whole = await answer.json();
    for (const [name, code] of Object.entries(whole)) {
      // What is copied is all of it; what is shown has an end.
      byId(`code-${name}`).textContent =
        code.length > SHORT ? `${code.slice(0, SHORT)}\n… ${code.length}` : code;
    }
    place.dataset.shown = String(Number(place.dataset.shown ?? 0) + 1);
  }

  place.addEventListener("toggle", show);
  place.addEventListener("click", async (event) => {
    const button = event.target.closest("button[data-copy]");
    if (!button) return;
    await navigator.clipboard.writeText(whole[button.dataset.copy] ?? "");
    const words = button.textContent;
    if (words === button.dataset.copied) return;
    button.textContent = button.dataset.copied;
    setTimeout(() => (button.textContent = words), 1500);
  });
  return () => {
    clearTimeout(later);
    later = setTimeout(show, 250);
  };
}
