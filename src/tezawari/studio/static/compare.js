// Two pictures of one size, one over the other, and a line to draw between them.

import { h } from "./dom.js";
import { t } from "./i18n.js";

export function compare(before, ratio) {
  const first = h("img", { src: before, alt: t("compare.before"), draggable: "false" });
  const second = h("img", { class: "after", alt: t("compare.after"), draggable: "false", hidden: true });
  const range = h("input", { type: "range", min: "0", max: "100", value: "50", step: "0.5", "aria-label": t("compare"), oninput: () => move(range.value) });
  const line = h("div", { class: "line", "aria-hidden": "true" }, h("span", {}, "‹ ›"));
  const element = h("div", { class: "compare", vars: { "--ratio": ratio, "--cut": "50%" } }, first, second, line, range);
  const move = (value) => element.style.setProperty("--cut", `${value}%`);
  const drag = (event) => {
    const box = element.getBoundingClientRect();
    range.value = String(Math.max(0, Math.min(100, ((event.clientX - box.left) / box.width) * 100)));
    move(range.value);
  };
  element.addEventListener("pointerdown", (event) => {
    if (second.hidden || element.classList.contains("painting") || event.button !== 0) return;
    element.setPointerCapture(event.pointerId);
    drag(event);
    range.focus({ preventScroll: true });
    event.preventDefault();
  });
  element.addEventListener("pointermove", (event) => {
    if (element.hasPointerCapture(event.pointerId) && !element.classList.contains("painting")) drag(event);
  });
  return {
    element,
    show(url) {
      second.src = url;
      second.hidden = false;
      element.classList.add("both");
    },
    hide() {
      second.hidden = true;
      element.classList.remove("both");
    },
    after: second,
  };
}
