// Restyle: a photo, a slider and a brush for each style, before and after, the full size to take away.

import { fileOf, follow, post, save, send } from "./api.js";
import { compare } from "./compare.js";
import { debounce, h, icon, isTyping, renew, replace } from "./dom.js";
import { className, styleName, t } from "./i18n.js";
import { followIn } from "./jobs.js";
import { readMask } from "./masks.js";
import { paintLayer } from "./paint.js";
import { photoIntake, photoUrl } from "./photo.js";
import { mountSwap } from "./swap.js";
import { explain, toast } from "./toast.js";

// Told apart by hue first, by lightness for those who see few hues.
const COLORS = [[47, 111, 176], [214, 96, 48], [62, 142, 92], [168, 72, 140], [208, 168, 40], [96, 84, 176], [40, 156, 164], [180, 56, 64]];
const KEEP_COLOR = [250, 246, 236];
const ERASER_COLOR = [140, 134, 124];
const isLight = ([red, green, blue]) => 0.3 * red + 0.59 * green + 0.11 * blue > 140;

// Kept while other pages are shown. `parts`: what was found in the photo, the classes and their mask.
const kept = { photo: null, thumbnails: null, weights: {}, layer: null, parts: null, keepColor: false, soft: 0.01, brush: null };

// What another page wants to be restyled, until this one is shown.
let arriving = null;

// Of a photo a class of a mask alone: `answer` has the mask's address and the shares of the classes in it.
export function restylePart(photo, answer, name) {
  arriving = { photo, answer, name };
}

let switched = false;

function modes(current) {
  const link = (name, place) => h("a", { href: place, "aria-current": name === current ? "page" : null, onclick: () => { switched = true; } }, t(`modes.${name}`));
  const nav = h("nav", { class: "segmented modes", "aria-label": t("modes") }, link("mix", "#/restyle"), link("swap", "#/restyle/swap"));
  // The frame is made anew with each address, and whoever came by the keyboard goes on from here.
  if (switched) setTimeout(() => nav.querySelector("[aria-current]")?.focus({ preventScroll: true }));
  switched = false;
  return nav;
}

export function mount(main, studio, rest) {
  const adopt = (photo) => {
    Object.assign(kept, { photo, thumbnails: null, layer: null, parts: null, brush: null });
    chooseOne();
  };
  const chooseOne = () => {
    if (Object.values(kept.weights).some((weight) => weight > 0)) return false;
    kept.weights = { [studio.styles.at(-3) ?? studio.styles[0]]: 1 };
    return true;
  };
  if (rest[0] === "swap") return mountSwap(main, studio, modes("swap"), kept.photo, kept.thumbnails, adopt);
  const nav = modes("mix");
  const stage = h("section", { class: "stage", "aria-label": t("page.restyle") });
  const controls = h("section", { class: "controls", "aria-label": t("styles") });
  replace(main, stage, controls);
  const ending = new AbortController();
  let view = null;
  let asked = 0;
  let running = false;
  let shrinking = null;
  const parts = h("fieldset", { class: "parts" });
  const finding = h("div", { class: "jobline" });
  const said = h("p", { class: "soft", role: "status" });
  const colorOf = (place) => COLORS[place % COLORS.length];
  const status = h("p", { class: "status soft", role: "status" });
  const brushes = h("div", { class: "brushes card", hidden: true });
  const inPercent = (weight) => `${Math.round(weight * 100)} %`;

  async function mapId() {
    if (!kept.layer || kept.layer.isEmpty()) return null;
    const { width, height, labels } = kept.layer;
    const path = `/api/maps?photo=${kept.photo.id}&width=${width}&height=${height}`;
    return (await send(path, labels)).id;
  }

  async function submit(full) {
    const weights = Object.fromEntries(Object.entries(kept.weights).filter(([, weight]) => weight > 0));
    return post("/api/restyle", { photo: kept.photo.id, weights, map: await mapId(), feather: kept.soft, keep_color: kept.keepColor, full });
  }

  const wanted = () => Object.values(kept.weights).some((weight) => weight > 0) || (kept.layer && !kept.layer.isEmpty());

  // Only the newest wish counts: while one preview is made, further wishes are one.
  async function preview() {
    asked += 1;
    if (running || !kept.photo) return;
    running = true;
    stage.classList.add("working");
    try {
      for (let made = -1; made !== asked && !ending.signal.aborted; ) {
        made = asked;
        const photo = kept.photo;
        const job = await follow(await submit(false), () => {}, ending.signal);
        if (photo !== kept.photo || job.state !== "done") continue;
        view.show(fileOf(job.id, job.result.files[0]));
      }
    } catch (error) {
      explain(error);
    } finally {
      running = false;
      stage.classList.remove("working");
      if (!kept.thumbnails && !ending.signal.aborted) thumbnails();
    }
  }
  const soon = debounce(() => (wanted() ? preview() : view.hide()), 120);

  async function download(button) {
    button.disabled = true;
    try {
      const job = await follow(await submit(true), (state) => {
        status.textContent = state.total > 1 ? `${t("restyle.full")} ${state.done} / ${state.total}` : t("restyle.full");
      });
      if (job.state === "done") save(fileOf(job.id, job.result.files[0], true));
    } catch (error) {
      explain(error);
    } finally {
      status.textContent = "";
      button.disabled = false;
    }
  }

  async function thumbnails() {
    const photo = kept.photo;
    if (shrinking === photo) return;
    shrinking = photo;
    try {
      const job = await follow(await post("/api/styles", { photo: photo.id }), () => {}, ending.signal);
      if (job.state !== "done" || photo !== kept.photo) return;
      kept.thumbnails = job.result.files.map((name) => fileOf(job.id, name));
      for (const [place, image] of [...controls.querySelectorAll(".style img")].entries()) {
        image.src = kept.thumbnails[place];
        image.hidden = false;
      }
    } catch (error) {
      explain(error);
    }
  }

  function take(photo) {
    adopt(photo);
    build();
    preview();
  }

  async function takeParts(mask, classes) {
    const { photo, layer } = kept;
    const labels = await readMask(mask, layer.width, layer.height);
    if (photo !== kept.photo) return;
    kept.parts = { labels, classes: classes.filter(({ share }) => share > 0) };
    showParts();
  }

  async function findParts(button) {
    const { photo } = kept;
    button.disabled = true;
    try {
      const wish = { photo: photo.id, labels: [], methods: [studio.methods.at(-1)], crf: true };
      const job = await followIn(finding, await post("/api/segment", wish), ending.signal);
      const [answer] = job.result?.answers ?? [];
      if (answer && photo === kept.photo) await takeParts(fileOf(job.id, answer.mask), answer.classes);
    } catch (error) {
      explain(error);
    } finally {
      button.disabled = false;
    }
  }

  // The brush in hand fills a part as it would a stroke; without one the part gets what the sliders say.
  function fillPart(name) {
    const value = 1 + studio.classes.indexOf(name);
    if (!kept.parts.labels.includes(value)) {
      toast(t("parts.small"), null, "error");
      return;
    }
    if (kept.brush === null && chooseOne()) build();
    const label = kept.brush ?? 0;
    kept.layer.paint(kept.parts.labels, value, label, label === studio.keep_paint ? 0 : studio.keep_paint);
    said.textContent = t(label === 0 ? "parts.mixed" : "parts.painted", { name: className(name) });
    parts.querySelector(`[data-part="${value}"]`).focus({ preventScroll: true });
  }

  async function begin({ photo, answer, name }) {
    if (photo.id !== kept.photo?.id) adopt(photo);
    build();
    scrollTo({ top: 0 });
    try {
      await takeParts(answer.mask, answer.classes);
      fillPart(name);
    } catch (error) {
      explain(error);
    }
  }

  function showParts() {
    const chips = kept.parts?.classes.map(({ name, share }) => h("button", { class: "chip", "data-part": 1 + studio.classes.indexOf(name), onclick: () => fillPart(name) }, className(name), h("small", {}, `${Math.round(share * 100)} %`)));
    replace(
      parts,
      h("legend", {}, t("parts")),
      !chips && h("p", { class: "soft" }, t("parts.how")),
      !chips && h("div", {}, h("button", { class: "button", onclick: (event) => findParts(event.currentTarget) }, icon("segment"), t("parts.find"))),
      chips?.length === 0 && h("p", { class: "soft" }, t("segment.nothing")),
      chips && h("div", { class: "chips" }, chips),
      finding,
      said,
      chips?.length > 0 && h("div", { class: "row tight" }, h("button", { class: "text", onclick: () => kept.layer.undo() }, icon("undo"), t("undo")), h("button", { class: "text", onclick: () => kept.layer.fill(0) }, t("parts.whole"))),
    );
  }

  function choose(label) {
    kept.brush = kept.brush === label ? null : label;
    if (kept.brush !== null) kept.layer.brush.label = kept.brush;
    view.element.classList.toggle("painting", kept.brush !== null);
    for (const button of main.querySelectorAll("[data-label]")) {
      button.setAttribute("aria-pressed", String(Number(button.dataset.label) === kept.brush && kept.brush !== null));
    }
    brushes.hidden = kept.brush === null;
    if (kept.brush !== null) view.element.scrollIntoView({ block: "nearest" });
  }

  function brushButton(label, name, color) {
    return h("button", { class: "brush", "data-label": label, "aria-pressed": "false", title: t("paint.with", { name }), "aria-label": t("paint.with", { name }), vars: { "--paint": `rgb(${color})`, "--on-paint": isLight(color) ? "#24211c" : "#fff" }, onclick: () => choose(label) }, icon("brush"));
  }

  function styleCard(name, place) {
    const title = styleName(name);
    const value = kept.weights[name] ?? 0;
    const [picture, painter] = title.split(" · ");
    const output = h("output", {}, inPercent(value));
    const card = h("div", { class: `style${value > 0 ? " on" : ""}` });
    const range = h("input", {
      type: "range", min: "0", max: "1", step: "0.05", value: String(value), "aria-label": title,
      oninput: () => set(Number(range.value)),
    });
    const set = (weight) => {
      range.value = String(weight);
      kept.weights[name] = weight;
      output.textContent = inPercent(weight);
      card.classList.toggle("on", weight > 0);
      soon();
    };
    const image = h("img", { alt: "", hidden: !kept.thumbnails, src: kept.thumbnails?.[place] });
    const only = () => {
      kept.weights = { [name]: 1 };
      build();
      preview();
    };
    replace(card, h("button", { class: "pick", title: t("styles.only", { name: title }), "aria-label": t("styles.only", { name: title }), onclick: only }, image), h("div", { class: "name", title }, h("span", {}, picture, painter && h("small", {}, painter)), output), h("div", { class: "row tight" }, range, kept.layer && brushButton(place + 1, title, colorOf(place))));
    return card;
  }

  function build() {
    if (!kept.photo) {
      replace(stage, photoIntake(stage, take));
      replace(controls, nav, h("h1", {}, t("restyle.title")), h("p", { class: "lead" }, t("restyle.lead")), h("ul", { class: "plain soft" }, studio.styles.map((name, place) => h("li", {}, h("span", { class: "dot", vars: { "--paint": `rgb(${colorOf(place)})` } }), styleName(name)))));
      return;
    }
    const { photo } = kept;
    const earlier = view?.after.src;
    view = compare(photoUrl(photo), photo.width / photo.height);
    if (earlier && !view.after.src && kept.shownFor === photo.id) view.show(earlier);
    kept.shownFor = photo.id;
    const colors = { [studio.keep_paint]: KEEP_COLOR };
    studio.styles.forEach((_, place) => { colors[place + 1] = colorOf(place); });
    kept.layer ??= paintLayer(photo.width, photo.height, colors);
    kept.layer.changed = () => {
      said.textContent = "";
      if (wanted()) preview();
      else view.hide();
    };
    view.element.append(kept.layer.canvas);
    replace(stage, view.element, brushes, h("div", { class: "row under" }, photoIntake(stage, take, true), h("span", { class: "grow" }), h("button", { class: "button primary", onclick: (event) => download(event.currentTarget) }, icon("download"), t("restyle.download"))), status);
    const color = h("input", { type: "checkbox", checked: kept.keepColor, onchange: () => { kept.keepColor = color.checked; preview(); } });
    const size = h("input", { type: "range", min: "0.02", max: "0.4", step: "0.01", value: String(kept.layer.brush.size), "aria-label": t("paint.size"), oninput: () => { kept.layer.brush.size = Number(size.value); } });
    const soft = h("input", { type: "range", min: "0", max: "0.06", step: "0.002", value: String(kept.soft), "aria-label": t("paint.soft"), oninput: () => { kept.soft = Number(soft.value); if (!kept.layer.isEmpty()) soon(); } });
    replace(
      brushes,
      h("div", { class: "row head" }, h("h2", {}, t("paint")), h("p", { class: "soft grow" }, t("paint.how")), h("button", { class: "bare", title: t("paint.done"), "aria-label": t("paint.done"), onclick: () => choose(kept.brush) }, icon("close"))),
      h("label", { class: "field" }, t("paint.size"), size),
      h("label", { class: "field" }, t("paint.soft"), soft),
      h("div", { class: "row" }, [[studio.keep_paint, "paint.keep", KEEP_COLOR], [0, "paint.erase", ERASER_COLOR]].map(([label, name, rgb]) => h("span", { class: "row tight" }, brushButton(label, t(name), rgb), t(name)))),
      h("div", { class: "row" }, h("button", { class: "button", onclick: () => kept.layer.undo() }, icon("undo"), t("undo")), h("button", { class: "text", onclick: () => kept.layer.fill(0) }, t("paint.clear"))),
    );
    renew(
      controls,
      nav,
      h("div", { class: "row head" }, h("h1", {}, t("styles")), h("button", { class: "text", onclick: () => { kept.weights = Object.fromEntries(studio.styles.map((name) => [name, 1 / studio.styles.length])); build(); preview(); } }, t("styles.all")), h("button", { class: "text", onclick: () => { kept.weights = {}; build(); if (wanted()) preview(); else view.hide(); } }, t("styles.none"))),
      h("label", { class: "check" }, color, h("span", {}, t("restyle.color"))),
      studio.classes.length > 0 && parts,
      h("div", { class: "styles" }, studio.styles.map(styleCard)),
    );
    showParts();
    const brush = kept.brush;
    kept.brush = null;
    if (brush !== null) choose(brush);
  }

  function key(event) {
    if (isTyping(event) || !kept.photo) return;
    if (event.key === "z" && event.ctrlKey) kept.layer.undo();
    else if (event.ctrlKey) return;
    else if (/^[1-9]$/.test(event.key) && Number(event.key) <= studio.styles.length) choose(Number(event.key));
    else if (event.key === "0") choose(studio.keep_paint);
    else if (event.key === "e") choose(0);
    else if (event.key === "Escape" && kept.brush !== null) choose(kept.brush);
    else if (event.key === "c") { kept.keepColor = !kept.keepColor; build(); preview(); }
    else return;
    event.preventDefault();
  }

  addEventListener("keydown", key);
  if (arriving) {
    begin(arriving);
    arriving = null;
  } else {
    build();
    if (kept.photo) preview();
  }
  return () => {
    ending.abort();
    removeEventListener("keydown", key);
  };
}
