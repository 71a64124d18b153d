// Now: pieces as they change; pin and stop.
import { byId, live, post } from "./page.js";

live("/page/now/live");

byId("main").addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-do]");
  if (!button) return;
  const { name } = button.dataset;
  if (button.dataset.do === "pin") {
    const pinned = button.getAttribute("aria-pressed") !== "true";
    if (await post("/page/now/pin", { name, pinned })) {
      button.setAttribute("aria-pressed", String(pinned));
    }
  } else if (await sure(name)) {
    await post("/page/now/stop", { name });
  }
});

/** Whether the person means it. */
function sure(name) {
  const dialog = byId("sure");
  const what = byId("sure-what");
  what.textContent = what.dataset.what.replace("%s", name);
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((done) => {
    dialog.addEventListener("close", () => done(dialog.returnValue === "yes"), { once: true });
  });
}
