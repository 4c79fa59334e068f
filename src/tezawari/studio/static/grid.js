// A list of any length in a window that scrolls: only what can be seen has elements, and those are used again.

import { h } from "./dom.js";

const OVERSCAN = 2;

// `fill(node, item, index)` makes a node show an item; `width` and `height` are of a cell, gap included.
export function virtualGrid({ label, width, height, fill, make, columns: fixed = 0, role = "listbox" }) {
  const inner = h("div", { class: "inner" });
  const element = h("div", { class: "grid", tabindex: "0", role, "aria-label": label, "aria-multiselectable": role === "listbox" ? "true" : null }, inner);
  let items = [];
  let columns = 1;
  let cell = [width, height];
  let active = 0;
  let frame = 0;
  const shown = new Map();
  const spare = [];

  function layout() {
    const space = inner.clientWidth || element.clientWidth;
    columns = fixed || Math.max(1, Math.floor(space / width));
    cell = [space / columns, fixed ? height : (height * (space / columns)) / width];
    inner.style.setProperty("height", `${Math.ceil(items.length / columns) * cell[1]}px`);
    for (const [index, node] of shown) put(node, index);
    draw();
  }
  function put(node, index) {
    node.style.setProperty("width", `${cell[0]}px`);
    node.style.setProperty("height", `${cell[1]}px`);
    node.style.setProperty("transform", `translate(${(index % columns) * cell[0]}px, ${Math.floor(index / columns) * cell[1]}px)`);
  }
  function draw() {
    frame = 0;
    const first = Math.max(0, Math.floor(element.scrollTop / cell[1]) - OVERSCAN) * columns;
    const last = Math.min(items.length, (Math.ceil((element.scrollTop + element.clientHeight) / cell[1]) + OVERSCAN) * columns);
    for (const [index, node] of shown) {
      if (index >= first && index < last) continue;
      shown.delete(index);
      node.hidden = true;
      spare.push(node);
    }
    for (let index = first; index < last; index++) {
      if (shown.has(index)) continue;
      let node = spare.pop();
      if (!node) {
        node = make();
        node.classList.add("cell");
        inner.append(node);
      }
      node.hidden = false;
      node.dataset.index = String(index);
      node.id = `${role}-${label}-${index}`.replace(/\s/g, "-");
      put(node, index);
      refresh(node, index);
      shown.set(index, node);
    }
  }
  function refresh(node, index) {
    node.classList.toggle("active", index === active);
    node.setAttribute("aria-posinset", String(index + 1));
    node.setAttribute("aria-setsize", String(items.length));
    if (index === active) element.setAttribute("aria-activedescendant", node.id);
    fill(node, items[index], index);
  }
  function activate(index) {
    if (!items.length) return;
    const before = active;
    active = Math.max(0, Math.min(items.length - 1, index));
    const top = Math.floor(active / columns) * cell[1];
    if (top < element.scrollTop) element.scrollTop = top;
    else if (top + cell[1] > element.scrollTop + element.clientHeight) element.scrollTop = top + cell[1] - element.clientHeight;
    draw();
    for (const each of [before, active]) if (shown.has(each)) refresh(shown.get(each), each);
  }

  element.addEventListener("scroll", () => { frame ||= requestAnimationFrame(draw); }, { passive: true });
  element.addEventListener("keydown", (event) => {
    const page = Math.max(1, Math.floor(element.clientHeight / cell[1])) * columns;
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns, PageDown: page, PageUp: -page, Home: -items.length, End: items.length };
    if (!(event.key in steps) || event.ctrlKey || event.altKey) return;
    event.preventDefault();
    const to = active + steps[event.key];
    // From the last row but one there is a way down even where the last one is short.
    const below = Math.floor(active / columns) < Math.floor((items.length - 1) / columns);
    if (Math.abs(steps[event.key]) === columns && (to < 0 || (to >= items.length && !below))) return;
    activate(to);
  });
  const watch = new ResizeObserver(layout);
  watch.observe(element);

  return {
    element,
    get items() { return items; },
    get active() { return active; },
    get columns() { return columns; },
    activate,
    set(list, keep = false) {
      items = list;
      for (const node of shown.values()) { node.hidden = true; spare.push(node); }
      shown.clear();
      if (!keep) { active = 0; element.scrollTop = 0; }
      active = Math.min(active, Math.max(0, items.length - 1));
      layout();
    },
    update(test = () => true) {
      for (const [index, node] of shown) if (test(items[index])) refresh(node, index);
    },
    indexOf(node) {
      const found = node?.closest?.(".cell");
      return found && inner.contains(found) ? Number(found.dataset.index) : -1;
    },
    close: () => watch.disconnect(),
  };
}
