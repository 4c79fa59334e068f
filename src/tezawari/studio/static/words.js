// Words: how recognisable and how visual words are, with their pictures, and which of them is taken for which.

import { get, isOver, post } from "./api.js";
import { h, icon, replace } from "./dom.js";
import { t } from "./i18n.js";
import { followInCard } from "./jobs.js";
import { listSets, thumbnailUrl } from "./sets.js";
import { settings } from "./settings.js";
import { explain } from "./toast.js";

const USUAL_IMAGES = 50;
// Of 250 components of the mixture that the entropy is of: its largest value, in bits.
const MOST_BITS = Math.log2(250);
// A share that is more than a slip.
const OFTEN = 0.05;

const ORDERS = {
  precision: (a, b) => b.precision[0] - a.precision[0],
  entropy: (a, b) => a.entropy[0] - b.entropy[0],
  images: (a, b) => b.images - a.images,
  word: (a, b) => a.word.localeCompare(b.word, "ja"),
};

const kept = { images: null, off: new Set(), order: "precision" };

const percent = (share) => (100 * share).toFixed(1);

export function mount(main) {
  const ending = new AbortController();
  const form = h("div", {}, h("p", { class: "soft" }, t("loading")));
  const live = h("div", { class: "live", "aria-live": "polite" });
  const results = h("div", { class: "measured" });
  let bounds = null;
  let sets = [];

  async function begin(event) {
    event.preventDefault();
    try {
      watch(await post("/api/words/measure", { sets: chosen().map((set) => set.id), images: kept.images }));
    } catch (error) {
      explain(error);
    }
  }

  async function watch(job) {
    try {
      const done = await followInCard(live, job, () => h("strong", {}, t("words.measuring")), ending.signal);
      if (done.state === "done") {
        const { measured } = await get("/api/words");
        if (!ending.signal.aborted) show(measured);
      }
    } catch (error) {
      explain(error);
    }
  }

  const enough = (set) => set.images >= kept.images;
  const chosen = () => sets.filter((set) => enough(set) && !kept.off.has(set.id));

  function build() {
    const able = sets.filter((set) => set.images >= bounds.fewest);
    if (!able.length) {
      replace(form, h("div", { class: "card empty" }, h("p", {}, t("words.none", { count: bounds.fewest })), h("a", { class: "button", href: "#/collect" }, icon("collect"), t("page.collect"))));
      return;
    }
    const counts = able.map((set) => set.images).sort((a, b) => b - a);
    kept.images ??= Math.min(USUAL_IMAGES, counts[Math.min(1, counts.length - 1)]);
    const chips = h("div", { class: "chips" });
    const line = h("p", { class: "soft", role: "status" });
    const button = h("button", { class: "primary" }, t("words.measure"));

    const say = () => {
      const few = able.length - able.filter(enough).length;
      const count = chosen().length;
      button.disabled = count === 0;
      if (count === 0) line.textContent = t("words.choose", { count: kept.images, most: counts[0] });
      else if (few) line.textContent = t("words.few", { few, count: kept.images });
      else line.textContent = count === 1 ? t("words.one") : "";
    };
    const fill = () => {
      replace(chips, able.map((set) => {
        const box = h("input", { type: "checkbox", disabled: !enough(set), checked: enough(set) && !kept.off.has(set.id), onchange: () => { kept.off[box.checked ? "delete" : "add"](set.id); say(); } });
        return h("label", { class: `chip${enough(set) ? "" : " off"}` }, box, h("span", { lang: "ja" }, set.word), h("small", {}, String(set.images)));
      }));
      say();
    };
    const images = h("input", { type: "number", id: "images", min: String(bounds.fewest), max: String(bounds.most), value: String(kept.images), required: true, oninput: () => { if (images.checkValidity()) { kept.images = Number(images.value); fill(); } } });
    fill();
    replace(
      form,
      h(
        "form",
        { class: "card measure-form", onsubmit: begin },
        h("fieldset", {}, h("legend", {}, t("words.which")), chips),
        h("div", { class: "row" }, h("label", { for: "images" }, t("words.images")), images, button),
        line,
      ),
    );
  }

  function show(measured) {
    const idOf = new Map(sets.map((set) => [set.word, set.id]));
    if (measured) replace(results, ranking(measured, idOf), confusion(measured), terms(measured));
    else replace(results);
  }

  replace(main, h("div", { class: "column words-page" }, h("div", {}, h("h1", {}, t("words.title")), h("p", { class: "lead" }, t("words.lead"))), form, live, results));
  Promise.all([get("/api/words"), listSets(), get("/api/jobs")]).then(([{ measured, ...rest }, all, jobs]) => {
    if (ending.signal.aborted) return;
    bounds = rest;
    sets = all.filter((set) => !set.hidden);
    build();
    show(measured);
    jobs.filter((job) => job.kind === "measure" && !isOver(job)).reverse().forEach(watch);
  }, explain);
  return () => ending.abort();
}

function meter(label, [value, low, high], most, random, text) {
  const place = (number) => `${(100 * Math.min(1, number / most)).toFixed(1)}%`;
  return h(
    "div",
    { class: "meter" },
    h("span", { class: "soft" }, label),
    h("strong", {}, text(value)),
    h("span", { class: "soft interval" }, `${text(low)} – ${text(high)}`.replace(" %", "")),
    h("div", { class: "gauge", "aria-hidden": "true", vars: { "--value": place(value), "--low": place(low), "--high": place(high), "--random": place(random) } }, h("i", { class: "value" }), h("i", { class: "reach" }), h("i", { class: "random" })),
  );
}

function ranking(measured, idOf) {
  const list = h("ol", { class: "ranking" });
  const fill = () => {
    replace(list, [...measured.words].sort(ORDERS[kept.order]).map((one, at) => {
      const id = idOf.get(one.word);
      const pictures = one.top.map((image, place) => (id ? h("img", { src: thumbnailUrl(id, image), alt: place ? "" : t("words.typical", { word: one.word }), loading: "lazy", decoding: "async" }) : null));
      return h(
        "li",
        { class: "card ranked" },
        h("span", { class: "place", "aria-hidden": "true" }, String(at + 1)),
        h("div", { class: "name" }, h("strong", { lang: "ja" }, one.word), settings.language === "en" && one.gloss && h("span", { class: "soft" }, one.gloss), h("span", { class: "soft" }, t("sets.images", { count: one.images }))),
        meter(t("words.precision"), one.precision, 1, measured.random_precision, (value) => `${percent(value)} %`),
        meter(t("words.entropy"), one.entropy, MOST_BITS, measured.random_entropy, (value) => value.toFixed(2)),
        id && h("a", { class: "strip", href: `#/annotate/${id}`, "aria-label": t("words.pictures", { word: one.word }) }, pictures),
      );
    }));
  };
  const orders = h("div", { class: "segmented", role: "group", "aria-label": t("order") }, Object.keys(ORDERS).map((name) => h("button", { "data-order": name, "aria-pressed": String(name === kept.order), onclick: () => {
    kept.order = name;
    for (const button of orders.children) button.setAttribute("aria-pressed", String(button.dataset.order === name));
    fill();
  } }, t(`words.by.${name}`))));
  fill();
  return h("section", { "aria-label": t("words.ranking") }, h("div", { class: "row head" }, h("h2", {}, t("words.ranking")), h("span", { class: "grow" }), orders), list);
}

function confusion({ confusion: found, words, shared }) {
  const title = h("h2", {}, t("words.confusion"));
  if (!found) return h("section", {}, title, h("p", { class: "card" }, words.length < 2 ? t("words.second") : t("words.shared.all", { count: shared })));
  const place = new Map(words.map((one) => [one.word, one.precision[0]]));
  const order = found.words.map((_, number) => number).sort((a, b) => place.get(found.words[b]) - place.get(found.words[a]));
  const share = (row, column) => found.shares[row][column];
  // Mistakes are small shares, and what is looked for: they are drawn stronger than in proportion.
  const strength = (row, column) => (row === column ? share(row, column) : Math.sqrt(share(row, column)));
  const cell = (row, column) => h("td", { class: row === column ? "right" : null, vars: { "--share": `${(100 * strength(row, column)).toFixed(0)}%` } }, (100 * share(row, column)).toFixed(0));
  const table = h(
    "table",
    { class: "heat", "aria-describedby": "confusion-how" },
    h("thead", {}, h("tr", {}, h("td", {}), order.map((column) => h("th", { scope: "col", lang: "ja" }, h("span", {}, found.words[column]))))),
    h("tbody", {}, order.map((row) => h("tr", {}, h("th", { scope: "row", lang: "ja" }, found.words[row]), order.map((column) => cell(row, column))))),
  );
  const often = order
    .flatMap((row) => order.filter((column) => column !== row && share(row, column) >= OFTEN).map((column) => [row, column]))
    .sort((a, b) => share(...b) - share(...a))
    .slice(0, 5);
  const [value, low, high] = found.accuracy.map(percent);
  return h(
    "section",
    { "aria-label": t("words.confusion") },
    title,
    h("p", {}, t("words.accuracy", { value, low, high, guessing: percent(1 / found.words.length) }), " ", shared > 0 && h("span", { class: "soft" }, t("words.shared", { count: shared }))),
    h("p", { class: "soft", id: "confusion-how" }, t("words.confusion.how")),
    h("div", { class: "card heatbox", role: "region", tabindex: "0", "aria-label": t("words.confusion") }, table),
    often.length > 0 && h("ul", { class: "plain often", "aria-label": t("words.often") }, often.map(([row, column]) => h("li", {}, h("strong", { lang: "ja" }, found.words[row]), ` → `, h("strong", { lang: "ja" }, found.words[column]), ` ${(100 * share(row, column)).toFixed(0)} %`))),
  );
}

function terms(measured) {
  const when = new Date(measured.time).toLocaleString(settings.language === "ja" ? "ja-JP" : "en-GB", { dateStyle: "medium", timeStyle: "short" });
  const left = measured.left_out.map((one) => `${one.word} (${one.images})`).join(", ");
  return h(
    "section",
    { class: "soft terms" },
    h("p", {}, t("words.when", { when, images: measured.images, random: measured.random, features: measured.features })),
    h("p", {}, t("words.random", { precision: percent(measured.random_precision), chance: percent(measured.chance), entropy: measured.random_entropy.toFixed(2) })),
    measured.crops && h("p", {}, t("words.crops")),
    left && h("p", {}, t("words.left", { left, count: measured.images })),
  );
}
