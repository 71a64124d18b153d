// A canvas that is moved and scaled: with the mouse, fingers, keys and buttons.

/** Colours of the page by name, as they are now. */
export function colours(names) {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

/** Call `act` when the colours of the page change. */
export function onColours(act) {
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", act);
}

/**
 * A picture in an element.
 * @param box the element; its first child is the canvas.
 * @param draw called with the context, the width and the height in pixels of CSS.
 */
export class Picture {
  constructor(box, draw) {
    this.box = box;
    this.canvas = box.firstElementChild;
    this.context = this.canvas.getContext("2d");
    this.draw = draw;
    this.due = 0;
    new ResizeObserver(() => this.again()).observe(box);
    onColours(() => this.again());
  }

  get width() {
    return this.box.clientWidth;
  }

  get height() {
    return this.box.clientHeight;
  }

  /** Draw at the next frame. */
  again() {
    if (this.due) return;
    this.due = requestAnimationFrame(() => {
      this.due = 0;
      this.now();
    });
  }

  now() {
    const ratio = devicePixelRatio || 1;
    const [wide, high] = [Math.round(this.width * ratio), Math.round(this.height * ratio)];
    if (this.canvas.width !== wide || this.canvas.height !== high) {
      this.canvas.width = wide;
      this.canvas.height = high;
    }
    this.context.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.context.clearRect(0, 0, this.width, this.height);
    this.draw(this.context, this.width, this.height);
  }

  /** `move(dx, dy)`, `scale(factor, x, y)` and `pick(x, y)` for mouse and fingers. */
  hand({ move, scale, pick }) {
    const down = new Map();
    let moved = 0;
    const at = (event) => {
      const place = this.box.getBoundingClientRect();
      return [event.clientX - place.left, event.clientY - place.top];
    };
    const apart = () => {
      const [one, other] = [...down.values()];
      return Math.hypot(one[0] - other[0], one[1] - other[1]);
    };
    this.box.addEventListener("pointerdown", (event) => {
      this.box.setPointerCapture(event.pointerId);
      down.set(event.pointerId, at(event));
      moved = 0;
    });
    this.box.addEventListener("pointermove", (event) => {
      const before = down.get(event.pointerId);
      if (!before) return;
      const now = at(event);
      const was = down.size === 2 ? apart() : 0;
      down.set(event.pointerId, now);
      moved += Math.abs(now[0] - before[0]) + Math.abs(now[1] - before[1]);
      if (down.size === 2) scale(apart() / Math.max(1, was), ...now);
      else move(now[0] - before[0], now[1] - before[1]);
    });
    const up = (event) => {
      if (event.type === "pointerup" && down.size === 1 && moved < 5) pick(...at(event));
      down.delete(event.pointerId);
    };
    this.box.addEventListener("pointerup", up);
    this.box.addEventListener("pointercancel", up);
    this.box.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        if (event.shiftKey) move(-event.deltaY, 0);
        else scale(Math.exp(-event.deltaY / 400), ...at(event));
      },
      { passive: false },
    );
  }

  /** Keys by their names; others go on. */
  keys(on) {
    this.box.addEventListener("keydown", (event) => {
      const act = event.ctrlKey || event.metaKey || event.altKey ? undefined : on[event.key];
      if (!act) return;
      event.preventDefault();
      act();
    });
  }
}

/** An element with text. */
export function element(name, words = "", more = {}) {
  const made = document.createElement(name);
  made.textContent = words;
  Object.assign(made, more);
  return made;
}

/** A list of terms and what they are. */
export function facts(pairs) {
  const list = document.createElement("dl");
  for (const [term, what] of pairs) {
    const row = document.createElement("div");
    row.append(element("dt", term), element("dd", what));
    list.append(row);
  }
  return list;
}
