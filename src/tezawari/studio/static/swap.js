// Swap a material: what of the photo, into which style, before and after, and what is seen there then.

import { fileOf, post, save } from "./api.js";
import { compare } from "./compare.js";
import { h, icon, replace, swatch } from "./dom.js";
import { className, styleName, t } from "./i18n.js";
import { followIn } from "./jobs.js";
import { photoIntake, photoUrl } from "./photo.js";
import { explain } from "./toast.js";

// Kept while other pages are shown; `wish` is what the job that is shown was asked for.
const kept = { source: "", target: null, soft: 0.003, keepColor: false, wish: null, job: null };

const percent = (share) => `${Math.round(share * 100)} %`;

// `photo` may be none yet; `adopt` is told of one that is chosen here. `modes` leads to the rest of the page.
export function mountSwap(main, studio, modes, photo, thumbnails, adopt) {
  const heading = [h("h1", {}, t("swap.title")), h("p", { class: "lead" }, t("swap.lead"))];
  if (!studio.classes.length) {
    replace(main, h("div", { class: "column narrow" }, modes, heading, h("div", { class: "card" }, h("p", {}, t("swap.none")), h("pre", {}, "python train.py model=stc\ntezawari studio --segmenter outputs/selftraining/RUN"))));
    return () => {};
  }
  const ending = new AbortController();
  const stage = h("section", { class: "stage", "aria-label": t("swap.title") });
  const controls = h("section", { class: "controls", "aria-label": t("swap.title") });
  const line = h("div", { class: "jobline" });
  const results = h("div", { class: "results" });
  const full = h("button", { class: "button primary", onclick: () => download() }, icon("download"), t("restyle.download"));
  const start = h("button", { class: "primary", onclick: () => run({ photo: photo.id, source: kept.source || null, target: kept.target, feather: kept.soft, keep_color: kept.keepColor, full: false }) }, t("swap.run"));
  const source = h("select", { "aria-label": t("swap.from"), onchange: () => { kept.source = source.value; } });
  let view = null;
  let working = false;
  if (!studio.styles.includes(kept.target)) [kept.target] = studio.styles;

  function refresh() {
    start.disabled = working || !photo;
    full.disabled = working || !kept.job;
    stage.classList.toggle("working", working);
  }

  async function run(wish) {
    working = true;
    refresh();
    try {
      const following = followIn(line, await post("/api/swap", wish), wish.full ? undefined : ending.signal);
      line.scrollIntoView({ block: "nearest" });
      const job = await following;
      if (job.state !== "done" || wish.photo !== photo.id) return;
      Object.assign(kept, { wish, job });
      showResult();
      view.element.scrollIntoView({ block: "nearest" });
      if (wish.full) save(fileOf(job.id, job.result.image, true));
    } catch (error) {
      explain(error);
    } finally {
      working = false;
      refresh();
    }
  }

  function download() {
    if (kept.wish.full) save(fileOf(kept.job.id, kept.job.result.image, true));
    else run({ ...kept.wish, full: true });
  }

  const seen = (shares, colors) => shares.map(({ name, share }, place) => [place > 0 && ", ", name && swatch(colors[name]), `${name ? className(name) : t("swap.background")} ${percent(share)}`]);

  function scores({ target, colors, seen: [before, after], scores: values }) {
    const row = (title, ...cells) => h("tr", {}, h("th", { scope: "row" }, title), cells.map((cell) => h("td", {}, cell)));
    const measured = (title, name) => row(title, ...values.map((each) => each[name].toFixed(2)));
    return [
      h("table", { class: "scores" },
        h("thead", {}, h("tr", {}, h("td", {}), h("th", { scope: "col" }, t("swap.before")), h("th", { scope: "col" }, t("swap.after")))),
        h("tbody", {}, row(t("swap.seen"), seen(before, colors), seen(after, colors)), values && [measured(t("swap.accuracy"), "pixel_accuracy"), measured(t("swap.iou"), "iou")])),
      h("p", { class: "soft" }, t(values ? "swap.scored" : "swap.unscored", { target: styleName(target) })),
    ];
  }

  function showResult() {
    const { id, result } = kept.job;
    const figure = (name, caption) => h("figure", {}, h("img", { src: fileOf(id, result[name]), alt: caption }), h("figcaption", {}, caption));
    view.show(fileOf(id, result.shown));
    replace(
      results,
      h("article", { class: "card answer" },
        h("div", { class: "row" }, h("h2", {}, t("swap.made", { source: className(result.source), target: styleName(result.target) })), h("span", { class: "grow" }), h("a", { class: "button", href: fileOf(id, result.mask, true), download: "" }, icon("download"), t("segment.mask"))),
        scores(result),
        h("div", { class: "maps" }, figure("region", t("swap.region", { source: className(result.source), share: percent(result.share) })), figure("before", t("swap.seen.before")), figure("after", t("swap.seen.after")))),
    );
    offerSources();
  }

  function offerSources() {
    const found = new Map(kept.job?.result.found.map(({ name, share }) => [name, share]));
    const title = (name) => (found.has(name) ? `${className(name)} · ${percent(found.get(name))}` : className(name));
    replace(source, h("option", { value: "" }, t("swap.auto")), studio.classes.map((name) => h("option", { value: name, selected: name === kept.source }, title(name))));
    source.value = kept.source;
  }

  function take(taken) {
    photo = taken;
    thumbnails = null;
    Object.assign(kept, { source: "", wish: null, job: null });
    adopt(taken);
    build();
  }

  function build() {
    if (kept.wish?.photo !== photo?.id) Object.assign(kept, { source: "", wish: null, job: null });
    replace(results);
    if (photo) {
      view = compare(photoUrl(photo), photo.width / photo.height);
      replace(stage, view.element, h("div", { class: "row under" }, photoIntake(stage, take, true), h("span", { class: "grow" }), full));
    } else replace(stage, photoIntake(stage, take));
    const color = h("input", { type: "checkbox", checked: kept.keepColor, onchange: () => { kept.keepColor = color.checked; } });
    const soft = h("input", { type: "range", min: "0", max: "0.03", step: "0.001", value: String(kept.soft), "aria-label": t("paint.soft"), oninput: () => { kept.soft = Number(soft.value); } });
    const style = (name, place) => h("label", { class: "chip" }, h("input", { type: "radio", name: "target", checked: name === kept.target, onchange: () => { kept.target = name; } }), thumbnails && h("img", { src: thumbnails[place], alt: "" }), h("span", {}, styleName(name)));
    replace(
      controls,
      modes,
      heading,
      h("label", { class: "field" }, t("swap.from"), source),
      h("fieldset", { class: "targets" }, h("legend", {}, t("swap.to")), h("div", { class: "chips" }, studio.styles.map(style))),
      h("label", { class: "field" }, t("paint.soft"), soft),
      h("label", { class: "check" }, color, h("span", {}, t("restyle.color"))),
      start,
      line,
    );
    offerSources();
    refresh();
    if (kept.job) showResult();
  }

  replace(main, stage, controls, results);
  build();
  return () => ending.abort();
}
