// Painting labels on a photo: a byte a pixel, shown as a veil of colours.

import { h } from "./dom.js";
import { t } from "./i18n.js";

const LONGEST = 512;
const MOST_UNDO = 20;
const OPACITY = 120;

// `changed` of what is returned is called after every stroke; whoever shows the layer sets it.
export function paintLayer(width, height, colors) {
  const scale = Math.min(1, LONGEST / Math.max(width, height));
  const [w, hgt] = [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
  let labels = new Uint8Array(w * hgt);
  const history = [];
  const canvas = h("canvas", { width: w, height: hgt, class: "paint", "aria-label": t("paint.canvas") });
  const context = canvas.getContext("2d");
  const picture = context.createImageData(w, hgt);
  const brush = { label: 0, size: 0.12 };
  let last = null;

  const color = (at) => {
    const rgb = colors[labels[at]];
    picture.data.set(rgb ? [...rgb, OPACITY] : [0, 0, 0, 0], at * 4);
  };
  const draw = (left = 0, top = 0, right = w, bottom = hgt) => {
    for (let y = top; y < bottom; y++) for (let x = left; x < right; x++) color(y * w + x);
    context.putImageData(picture, 0, 0, left, top, right - left, bottom - top);
  };
  const dab = (cx, cy) => {
    const radius = Math.max(1, (brush.size * Math.max(w, hgt)) / 2);
    const [left, right] = [Math.max(0, Math.floor(cx - radius)), Math.min(w, Math.ceil(cx + radius) + 1)];
    const [top, bottom] = [Math.max(0, Math.floor(cy - radius)), Math.min(hgt, Math.ceil(cy + radius) + 1)];
    for (let y = top; y < bottom; y++) {
      for (let x = left; x < right; x++) if ((x - cx) ** 2 + (y - cy) ** 2 <= radius ** 2) labels[y * w + x] = brush.label;
    }
    if (right > left && bottom > top) draw(left, top, right, bottom);
  };
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * w, ((event.clientY - box.top) / box.height) * hgt];
  };
  const remember = () => {
    history.push(labels.slice());
    if (history.length > MOST_UNDO) history.shift();
  };
  const line = (to) => {
    const [fromX, fromY] = last ?? to;
    const steps = Math.max(1, Math.ceil(Math.hypot(to[0] - fromX, to[1] - fromY) / Math.max(1, brush.size * w * 0.15)));
    for (let step = 1; step <= steps; step++) dab(fromX + ((to[0] - fromX) * step) / steps, fromY + ((to[1] - fromY) * step) / steps);
    last = to;
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    canvas.setPointerCapture(event.pointerId);
    remember();
    last = null;
    line(place(event));
    event.preventDefault();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!canvas.hasPointerCapture(event.pointerId)) return;
    for (const each of event.getCoalescedEvents?.() ?? [event]) line(place(each));
  });
  canvas.addEventListener("pointerup", () => { last = null; layer.changed(); });
  canvas.addEventListener("pointercancel", () => { last = null; layer.changed(); });

  const layer = {
    changed: () => {},
    canvas,
    brush,
    width: w,
    height: hgt,
    get labels() { return labels; },
    isEmpty: () => labels.every((label) => label === 0),
    fill(label) { remember(); labels.fill(label); draw(); layer.changed(); },
    // Paints where `mask` has a value. On a layer without paint the rest becomes `rest`: a region is meant to stand alone.
    paint(mask, value, label, rest) {
      remember();
      const around = layer.isEmpty() ? rest : null;
      labels = labels.map((old, at) => (mask[at] === value ? label : around ?? old));
      draw();
      layer.changed();
    },
    undo() {
      const before = history.pop();
      if (!before) return;
      labels = before;
      draw();
      layer.changed();
    },
  };
  return layer;
}
