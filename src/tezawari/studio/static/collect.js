// Collect: from a word to a set, live; the sets there are; one set as a list with its licences.

import { fileOf, follow, get, isOver, post, save } from "./api.js";
import { h, icon, replace } from "./dom.js";
import { virtualGrid } from "./grid.js";
import { t } from "./i18n.js";
import { followInCard } from "./jobs.js";
import { covers, licence, listSets, picture, putAway, sourceName, thumbnailUrl } from "./sets.js";
import { explain, toast } from "./toast.js";

const kept = { word: "", nouns: "", sources: null, limit: 200, backbone: "", layer: "", language: "ja" };

const nounsOf = (text) => [...new Set(text.split(/[\s,、，・]+/).filter(Boolean))];

export function mount(main, studio, [id]) {
  if (id) return showSet(main, id);
  const ending = new AbortController();
  const live = h("div", { class: "live", "aria-live": "polite" });
  const list = h("div", { class: "setgrid" });
  kept.sources ??= studio.sources.filter((source) => source.unready === null).slice(0, 2).map((source) => source.name);

  const word = h("input", { type: "text", id: "word", required: true, maxlength: "200", value: kept.word, placeholder: "ふわふわ", autocomplete: "off", oninput: () => { kept.word = word.value; } });
  const limit = h("input", { type: "number", id: "limit", min: "1", max: String(studio.most_images), value: String(kept.limit), required: true, onchange: () => { kept.limit = Number(limit.value); } });
  const language = h("select", { id: "language", onchange: () => { kept.language = language.value; } }, ["ja", "en", ""].map((code) => h("option", { value: code, selected: code === kept.language }, code ? t(`language.${code}`) : t("language.none"))));
  const nouns = h("input", { type: "text", id: "nouns", maxlength: "300", value: kept.nouns, placeholder: "犬 髪", autocomplete: "off", "aria-describedby": "nouns-how", oninput: () => { kept.nouns = nouns.value; } });
  const backbone = h("select", { id: "backbone", onchange: () => { Object.assign(kept, { backbone: backbone.value, layer: "" }); fillLayers(); } });
  const layer = h("select", { id: "layer", onchange: () => { kept.layer = layer.value; } });
  // The server loads for seconds before it can say which layers there are, and most people never ask.
  const fillLayers = async () => {
    const chosen = kept.backbone;
    replace(layer, h("option", { value: "" }, t("collect.layer.usual")));
    try {
      const { backbones, layers, usual } = await get(`/api/sets/layers${chosen ? `?backbone=${chosen}` : ""}`);
      if (chosen !== kept.backbone) return;
      kept.backbone ||= backbones[0];
      replace(backbone, backbones.map((name, place) => h("option", { value: name, selected: name === kept.backbone }, place ? t("collect.backbone.download", { name }) : name)));
      layer.append(...layers.map((name) => h("option", { value: name, selected: name === kept.layer }, name === usual ? `${name} ·` : name)));
    } catch (error) {
      explain(error);
    }
  };
  const source = ({ name, unready }) => {
    const title = h("span", {}, t(`source.${name}`, {}, name));
    const [variable] = /TEZAWARI_\w+/.exec(unready) ?? [];
    if (unready !== null) return h("button", { type: "button", class: "chip off", title: unready, onclick: () => toast(variable ? t("collect.key.how", { source: title.textContent, variable }) : unready) }, title, h("small", {}, t("collect.key")));
    const box = h("input", { type: "checkbox", checked: kept.sources.includes(name), onchange: () => { kept.sources = box.checked ? [...kept.sources, name] : kept.sources.filter((each) => each !== name); } });
    return h("label", { class: "chip" }, box, title);
  };

  async function begin(event) {
    event.preventDefault();
    if (!kept.sources.length) {
      toast(t("collect.source.first"), null, "error");
      return;
    }
    try {
      const job = await post("/api/sets", { word: kept.word, nouns: nounsOf(kept.nouns), sources: kept.sources, limit: kept.limit, language: kept.language, ...(kept.backbone && { backbone: kept.backbone }), layer: kept.layer || null });
      word.select();
      watch(job);
      live.lastChild.scrollIntoView({ block: "nearest" });
    } catch (error) {
      explain(error);
    }
  }

  async function watch(job) {
    try {
      const done = await followInCard(live, job, (state) => h("strong", { lang: "ja" }, state.word), ending.signal);
      if (done.state === "done") {
        toast(t("collect.done", { word: done.word, count: done.result.images }));
        for (const problem of done.result.problems) toast(problem, null, "error");
      }
    } catch (error) {
      if (error.name !== "AbortError") toast(error.message, null, "error");
    }
    if (!ending.signal.aborted) refresh();
  }

  async function pack(set, count, button) {
    button.disabled = true;
    try {
      const job = await follow(await post(`/api/sets/${set.id}/pack`, { count }));
      if (job.state === "done") save(fileOf(job.id, job.result.files[0], true));
    } catch (error) {
      explain(error);
    } finally {
      button.disabled = false;
    }
  }

  function card(set) {
    const zip = (count, label) => h("button", { class: "text", "aria-label": `ZIP ${label}`, onclick: (event) => pack(set, count, event.currentTarget) }, label);
    return h(
      "article",
      { class: "card set" },
      h("a", { href: `#/collect/${set.id}`, tabindex: "-1", "aria-hidden": "true" }, covers(set)),
      h("div", { class: "row" }, h("a", { href: `#/collect/${set.id}`, class: "title" }, h("strong", { lang: "ja" }, set.word)), h("span", { class: "grow" }), h("button", { class: "bare", "aria-label": t("sets.remove", { word: set.word }), title: t("sets.remove", { word: set.word }), onclick: () => putAway(set, refresh) }, icon("close"))),
      h("p", { class: "soft" }, [t("sets.images", { count: set.images }), set.ranked ? t("sets.ranked") : ""].filter(Boolean).join(" · ")),
      set.images > 0 && h("div", { class: "row tight" }, h("a", { class: "text", href: `#/annotate/${set.id}` }, t("page.annotate")), h("span", { class: "grow" }), icon("download"), h("span", { class: "soft" }, "ZIP"), zip(50, "50"), zip(100, "100"), zip(null, t("sets.all"))),
    );
  }

  async function refresh() {
    try {
      const sets = (await listSets()).filter((set) => !set.hidden);
      replace(list, sets.length ? sets.map(card) : h("p", { class: "lead empty" }, t("sets.none")));
    } catch (error) {
      explain(error);
    }
  }

  replace(
    main,
    h(
      "div",
      { class: "column two" },
      h(
        "form",
        { class: "card collect-form", onsubmit: begin },
        h("h1", {}, t("collect.title")),
        h("p", { class: "soft" }, t("collect.lead")),
        h("label", { for: "word" }, t("collect.word")),
        word,
        h("label", { for: "nouns" }, t("collect.nouns")),
        nouns,
        h("p", { class: "soft", id: "nouns-how" }, t("collect.nouns.how")),
        h("fieldset", {}, h("legend", {}, t("collect.sources")), h("div", { class: "chips" }, studio.sources.map(source))),
        h("div", { class: "fields" }, h("div", {}, h("label", { for: "limit" }, t("collect.limit")), limit), h("div", {}, h("label", { for: "language" }, t("collect.language")), language)),
        h("details", { open: Boolean(kept.backbone), ontoggle: (event) => event.currentTarget.open && fillLayers() }, h("summary", {}, t("collect.more")), h("label", { for: "backbone" }, t("collect.backbone")), backbone, h("label", { for: "layer" }, t("collect.layer")), layer),
        h("button", { class: "primary" }, t("collect.start")),
      ),
      h("section", { class: "sets", "aria-label": t("sets") }, live, list),
    ),
  );
  refresh();
  get("/api/jobs").then((jobs) => jobs.filter((job) => job.kind === "collect" && !isOver(job)).reverse().forEach(watch), () => {});
  return () => ending.abort();
}

function showSet(main, id) {
  let grid = null;
  replace(main, h("p", { class: "soft" }, t("loading")));
  get(`/api/sets/${id}`).then((set) => {
    const best = set.passes.at(-1);
    const images = best ? best.order.map((place) => set.images[place]) : set.images;
    grid = virtualGrid({
      label: set.word,
      width: 1,
      height: 76,
      columns: 1,
      role: "list",
      make: () => h("div", { role: "listitem", class: "line-item" }, h("span", { class: "rank" }), h("button", { class: "thumb" }, h("img", { alt: "", decoding: "async" })), h("span", { class: "what" }), h("span", { class: "licence" }), h("span", { class: "where" })),
      fill: (node, image, index) => {
        const [rank, thumb, what, terms, where] = node.children;
        rank.textContent = String(index + 1);
        thumb.onclick = () => picture(set.id, image);
        thumb.setAttribute("aria-label", image.title || String(index + 1));
        thumb.firstChild.setAttribute("src", thumbnailUrl(set.id, image.id));
        what.title = image.title;
        replace(what, h("strong", {}, image.title || "—"), h("span", { class: "soft" }, image.author));
        replace(terms, licence(image));
        replace(where, image.page_url ? h("a", { href: image.page_url, target: "_blank", rel: "noopener noreferrer" }, sourceName(image)) : sourceName(image));
      },
    });
    replace(
      main,
      h("div", { class: "toolbar" }, h("a", { href: "#/collect", class: "back", "aria-label": t("back") }, "←"), h("h1", { lang: "ja" }, set.word), h("span", { class: "soft" }, t("sets.images", { count: images.length })), h("span", { class: "grow" }), h("a", { class: "button", href: `#/annotate/${id}` }, icon("annotate"), t("page.annotate"))),
      h("div", { class: "lines" }, h("div", { class: "line-item headline", "aria-hidden": "true" }, h("span", { class: "rank" }, "#"), h("span", { class: "thumb" }), h("span", { class: "what" }, t("column.title")), h("span", { class: "licence" }, t("column.licence")), h("span", { class: "where" }, t("column.source"))), grid.element),
    );
    grid.set(images);
  }, (error) => {
    explain(error);
    location.hash = "#/collect";
  });
  return () => grid?.close();
}
