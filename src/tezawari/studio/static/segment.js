// Segment: a photo, labels, and what each method sees: heat maps and a mask to take away.

import { fileOf, post } from "./api.js";
import { h, icon, replace, swatch } from "./dom.js";
import { className, t } from "./i18n.js";
import { followIn } from "./jobs.js";
import { photoIntake, photoUrl } from "./photo.js";
import { restylePart } from "./restyle.js";
import { explain } from "./toast.js";

const kept = { photo: null, labels: [], methods: null, crf: true, job: null };

export function mount(main, studio) {
  if (!studio.classes.length) {
    replace(main, h("div", { class: "column narrow" }, h("h1", {}, t("segment.title")), h("p", { class: "lead" }, t("segment.lead")), h("div", { class: "card" }, h("p", {}, t("segment.none")), h("pre", {}, "python train.py model=saliency\ntezawari studio --segmenter outputs/saliency/RUN"))));
    return () => {};
  }
  const ending = new AbortController();
  kept.methods ??= [studio.methods.at(-1)];
  const stage = h("section", { class: "stage", "aria-label": t("page.segment") });
  const results = h("div", { class: "results" });
  const controls = h("section", { class: "controls" });
  const line = h("div", { class: "jobline" });

  const start = h("button", { class: "primary", onclick: run }, t("segment.run"));
  let working = false;
  const refresh = () => { start.disabled = working || !kept.photo; };

  const box = (list, name, title) => {
    const input = h("input", { type: "checkbox", checked: list.includes(name), onchange: () => { if (input.checked) list.push(name); else list.splice(list.indexOf(name), 1); } });
    return h("label", { class: "chip" }, input, h("span", {}, title));
  };

  async function run() {
    const { photo } = kept;
    working = true;
    refresh();
    try {
      const methods = studio.methods.filter((name) => kept.methods.includes(name));
      const following = followIn(line, await post("/api/segment", { photo: photo.id, labels: kept.labels, methods, crf: kept.crf }), ending.signal);
      line.scrollIntoView({ block: "nearest" });
      const job = await following;
      if (job.state === "done" && photo === kept.photo) {
        kept.job = job;
        showResults();
        results.scrollIntoView({ block: "nearest" });
      }
    } catch (error) {
      explain(error);
    } finally {
      working = false;
      refresh();
    }
  }

  function partButton(id, answer, name) {
    const go = () => {
      restylePart(kept.photo, { mask: fileOf(id, answer.mask), classes: answer.classes }, name);
      location.hash = "#/restyle";
    };
    return h("button", { class: "button", "aria-label": `${t("parts.restyle")}: ${className(name)}`, onclick: go }, icon("brush"), t("parts.restyle"));
  }

  function showResults() {
    const { id, result } = kept.job;
    replace(results, result.answers.map((answer) => h(
      "article",
      { class: "card answer" },
      h("div", { class: "row" }, h("h2", {}, studio.methods.length > 1 ? t(`method.${answer.method}`, {}, answer.method) : t("segment.mask")), h("span", { class: "grow" }), h("a", { class: "button", href: fileOf(id, answer.mask, true), download: "" }, icon("download"), t("segment.mask"))),
      h("div", { class: "maps" },
        h("figure", {}, h("img", { src: fileOf(id, answer.overlay), alt: t("segment.overlay") }), h("figcaption", {}, t("segment.overlay"))),
        answer.classes.map((each) => h("figure", {}, h("img", { src: fileOf(id, each.heat), alt: className(each.name) }), h("figcaption", {}, swatch(result.colors[each.name]), className(each.name), " ", h("span", { class: "soft" }, `${Math.round(each.share * 100)} %`)), each.share > 0 && partButton(id, answer, each.name))),
      ),
      answer.classes.length === 0 && h("p", { class: "soft" }, t("segment.nothing")),
    )));
  }

  function take(photo) {
    Object.assign(kept, { photo, job: null });
    build();
  }

  function build() {
    if (!kept.photo) replace(stage, photoIntake(stage, take));
    else replace(stage, h("img", { class: "photo", src: photoUrl(kept.photo), alt: t("compare.before") }), photoIntake(stage, take, true), results);
    replace(results);
    const crf = h("input", { type: "checkbox", checked: kept.crf, onchange: () => { kept.crf = crf.checked; } });
    replace(
      controls,
      h("h1", {}, t("segment.title")),
      h("p", { class: "soft" }, t("segment.lead")),
      h("fieldset", {}, h("legend", {}, t("segment.labels")), h("div", { class: "chips" }, studio.classes.map((name) => box(kept.labels, name, className(name)))), h("p", { class: "soft" }, t("segment.auto"))),
      studio.methods.length > 1 && h("fieldset", {}, h("legend", {}, t("segment.methods")), h("div", { class: "chips" }, studio.methods.map((name) => box(kept.methods, name, t(`method.${name}`, {}, name))))),
      h("label", { class: "check" }, crf, h("span", {}, t("segment.crf"))),
      start,
      line,
    );
    refresh();
    if (kept.job) showResults();
  }

  replace(main, stage, controls);
  build();
  return () => ending.abort();
}
