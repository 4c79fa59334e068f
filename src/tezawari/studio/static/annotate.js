// Annotate: a grid of a set's images; each verdict is on the server's disk before it stays on the screen.

import { get, post } from "./api.js";
import { h, icon, isTyping, renew, replace } from "./dom.js";
import { virtualGrid } from "./grid.js";
import { t } from "./i18n.js";
import { followIn } from "./jobs.js";
import { covers, listSets, picture, thumbnailUrl } from "./sets.js";
import { remember, settings } from "./settings.js";
import { explain, toast } from "./toast.js";

const POLL = 3000;

export function mount(main, studio, [id]) {
  if (!id) return chooseSet(main);
  let close = () => {};
  let gone = false;
  replace(main, h("p", { class: "soft" }, t("loading")));
  get(`/api/sets/${id}`).then((set) => { if (!gone) close = judge(main, set); }, (error) => {
    explain(error);
    location.hash = "#/annotate";
  });
  return () => { gone = true; close(); };
}

function chooseSet(main) {
  const list = h("div", { class: "setgrid" });
  replace(main, h("div", { class: "column" }, h("h1", {}, t("annotate.title")), h("p", { class: "lead" }, t("annotate.lead")), list));
  listSets().then((sets) => {
    const shown = sets.filter((set) => !set.hidden && set.images > 0);
    replace(list, shown.length ? shown.map((set) => h("a", { class: "card set", href: `#/annotate/${set.id}` }, covers(set), h("strong", { lang: "ja" }, set.word), h("span", { class: "soft" }, t("sets.images", { count: set.images })))) : h("div", { class: "card empty" }, h("p", {}, t("annotate.none")), h("a", { class: "button", href: "#/collect" }, icon("collect"), t("page.collect"))));
  }, explain);
  return () => {};
}

function judge(main, set) {
  const state = { verdicts: new Map(Object.entries(set.verdicts).map(([name, said]) => [name, new Map(Object.entries(said))])), seq: set.seq, verb: true, order: set.passes.length ? String(set.passes.at(-1).number) : "search", filter: "all", side: false };
  let grids = [];
  const mine = () => {
    if (!state.verdicts.has(settings.annotator)) state.verdicts.set(settings.annotator, new Map());
    return state.verdicts.get(settings.annotator);
  };
  const counts = h("span", { class: "counts", role: "status" });
  const lanes = h("div", { class: "lanes" });
  const jobLine = h("div", { class: "jobline" });

  const apply = (changes) => {
    for (const { image, annotator, verdict } of changes) {
      if (!state.verdicts.has(annotator)) state.verdicts.set(annotator, new Map());
      if (verdict === null) state.verdicts.get(annotator).delete(image);
      else state.verdicts.get(annotator).set(image, verdict);
    }
    if (changes.length) refresh(new Set(changes.map((change) => change.image)));
  };

  function refresh(images = null) {
    for (const grid of grids) grid.update((image) => images === null || images.has(image.id));
    const said = [...mine().values()];
    const yes = said.filter(Boolean).length;
    replace(counts, h("span", { class: "yes" }, `✓ ${yes}`), h("span", { class: "no" }, `✕ ${said.length - yes}`), h("span", { class: "soft" }, t("annotate.left", { count: set.images.length - said.length })));
  }

  function named() {
    if (settings.annotator) return true;
    toast(t("annotate.name.first"), null, "error");
    name.focus();
    return false;
  }

  // Shown at once, taken back where the server did not take it.
  async function say(images, verdict) {
    if (!named()) return;
    const wanted = images.filter((image) => (mine().get(image) ?? null) !== verdict);
    if (!wanted.length) return;
    const annotator = settings.annotator;
    const before = wanted.map((image) => ({ image, annotator, verdict: mine().get(image) ?? null }));
    apply(wanted.map((image) => ({ image, annotator, verdict })));
    try {
      await post(`/api/sets/${set.id}/judgements`, { annotator, verdicts: Object.fromEntries(wanted.map((image) => [image, verdict])) });
    } catch (error) {
      apply(before);
      explain(error);
    }
  }

  async function undo() {
    if (!named()) return;
    try {
      const { changes } = await post(`/api/sets/${set.id}/judgements/undo`, { annotator: settings.annotator });
      apply(changes);
      if (!changes.length) toast(t("annotate.nothing"));
      else for (const grid of grids) {
        const place = grid.items.findIndex((image) => image.id === changes[0].image);
        if (place >= 0) grid.activate(place);
      }
    } catch (error) {
      explain(error);
    }
  }

  async function poll() {
    if (document.hidden) return;
    const found = await get(`/api/sets/${set.id}/judgements?since=${state.seq}`).catch(() => null);
    if (!found) return;
    state.seq = found.seq;
    apply(found.changes.filter((change) => change.annotator !== settings.annotator || (mine().get(change.image) ?? null) !== change.verdict));
  }

  function ordered(which) {
    const ranked = set.passes.find((each) => String(each.number) === which);
    return ranked ? ranked.order.map((place) => set.images[place]) : set.images;
  }
  const differs = (image, other) => {
    const [ours, theirs] = [mine().get(image.id), state.verdicts.get(other)?.get(image.id)];
    return ours !== undefined && theirs !== undefined && ours !== theirs;
  };
  const FILTERS = {
    all: () => true,
    open: (image) => !mine().has(image.id),
    yes: (image) => mine().get(image.id) === true,
    no: (image) => mine().get(image.id) === false,
    differ: (image) => [...state.verdicts.keys()].some((other) => other !== settings.annotator && differs(image, other)),
  };
  const passName = (which) => (which === "search" ? t("order.search") : t("order.pass", { number: which }));

  function makeGrid(which) {
    const scores = new Map();
    const ranked = set.passes.find((each) => String(each.number) === which);
    ranked?.order.forEach((place, at) => scores.set(set.images[place].id, ranked.scores[at]));
    const size = innerWidth < 600 ? 104 : 144;
    const grid = virtualGrid({
      label: passName(which),
      width: size,
      height: size,
      make: () => h("div", { role: "option" }, h("img", { alt: "", draggable: "false", decoding: "async" }), h("span", { class: "mark", "aria-hidden": "true" }), h("span", { class: "others", "aria-hidden": "true" })),
      fill: (node, image, index) => {
        const [img, mark, others] = node.children;
        const source = thumbnailUrl(set.id, image.id);
        if (img.getAttribute("src") !== source) img.setAttribute("src", source);
        const verdict = mine().get(image.id);
        node.classList.toggle("yes", verdict === true);
        node.classList.toggle("no", verdict === false);
        node.setAttribute("aria-selected", String(verdict === true));
        mark.textContent = verdict === undefined ? "" : verdict ? "✓" : "✕";
        const said = [...state.verdicts].filter(([who, marks]) => who !== settings.annotator && marks.has(image.id));
        others.textContent = said.map(([, marks]) => (marks.get(image.id) ? "+" : "−")).join("");
        node.title = [`${index + 1}. ${image.title}`, scores.has(image.id) && scores.get(image.id).toFixed(2), ...said.map(([who, marks]) => `${who}: ${marks.get(image.id) ? "✓" : "✕"}`)].filter(Boolean).join("\n");
        node.setAttribute("aria-label", `${index + 1}. ${image.title} ${verdict === undefined ? t("verdict.open") : t(verdict ? "verdict.yes" : "verdict.no")}`);
      },
    });
    grid.set(ordered(which).filter(FILTERS[state.filter]));
    drag(grid);
    grid.element.addEventListener("keydown", (event) => keys(event, grid));
    return grid;
  }

  // One stroke over many images is one change, and one undo.
  function drag(grid) {
    let stroke = null;
    const touch = (index) => {
      const image = grid.items[index];
      if (!image || stroke.images.has(image.id)) return;
      stroke.images.add(image.id);
      grid.update((each) => stroke.images.has(each.id));
      for (const node of grid.element.querySelectorAll(`.cell[data-index="${index}"]`)) node.classList.add("touched");
    };
    grid.element.addEventListener("pointerdown", (event) => {
      const index = grid.indexOf(event.target);
      if (index < 0 || event.button === 1 || event.pointerType === "touch") return;
      event.preventDefault();
      grid.element.focus({ preventScroll: true });
      grid.activate(index);
      const verb = event.button === 2 ? !state.verb : state.verb;
      const again = mine().get(grid.items[index].id) === verb;
      stroke = { images: new Set(), verdict: again ? null : verb };
      touch(index);
      grid.element.setPointerCapture(event.pointerId);
    });
    grid.element.addEventListener("pointermove", (event) => {
      if (!stroke) return;
      const under = document.elementFromPoint(event.clientX, event.clientY);
      if (grid.element.contains(under)) touch(grid.indexOf(under));
    });
    const end = () => {
      if (!stroke) return;
      for (const node of grid.element.querySelectorAll(".touched")) node.classList.remove("touched");
      const { images, verdict } = stroke;
      stroke = null;
      say([...images], verdict);
    };
    grid.element.addEventListener("pointerup", end);
    grid.element.addEventListener("pointercancel", end);
    grid.element.addEventListener("contextmenu", (event) => event.preventDefault());
    grid.element.addEventListener("click", (event) => {
      const index = grid.indexOf(event.target);
      if (index < 0 || event.pointerType !== "touch") return;
      grid.activate(index);
      const image = grid.items[index].id;
      say([image], mine().get(image) === state.verb ? null : state.verb);
    });
  }

  function keys(event, grid) {
    const image = grid.items[grid.active];
    if (!image || event.ctrlKey || event.altKey || event.metaKey) return;
    const verdict = { a: true, y: true, r: false, n: false, Backspace: null, Delete: null }[event.key];
    if (verdict !== undefined) {
      say([image.id], verdict);
      grid.activate(grid.active + 1);
    } else if (event.key === " ") say([image.id], mine().get(image.id) === state.verb ? null : state.verb);
    else if (event.key === "Enter") picture(set.id, image);
    else return;
    event.preventDefault();
  }

  function lay() {
    for (const grid of grids) grid.close();
    const shown = state.side && set.passes.length ? ["search", ...set.passes.map((each) => String(each.number))].slice(-(innerWidth < 900 ? 2 : 3)) : [state.order];
    grids = shown.map(makeGrid);
    replace(lanes, grids.map((grid, place) => h("section", { class: "lane" }, shown.length > 1 && h("h2", {}, passName(shown[place])), grid.element, h("p", { class: "soft none" }, t("annotate.empty")))));
    lanes.classList.toggle("side", shown.length > 1);
    for (const grid of grids) grid.element.classList.toggle("bare", grid.items.length === 0);
    refresh();
  }

  async function rank(event) {
    const button = event.currentTarget;
    button.disabled = true;
    try {
      const job = await followIn(jobLine, await post(`/api/sets/${set.id}/rank`, {}));
      if (job.state === "done") {
        set = await get(`/api/sets/${set.id}`);
        state.order = String(set.passes.at(-1)?.number ?? "search");
        toolbar();
        lay();
        toast(t("annotate.ranked"));
      }
    } catch (error) {
      explain(error);
    } finally {
      button.disabled = false;
    }
  }

  async function showAgreement() {
    const pairs = await get(`/api/sets/${set.id}/agreement`).catch(explain);
    if (!pairs) return;
    const dialog = h(
      "dialog",
      { class: "sheet", onclose: () => dialog.remove() },
      h("h2", {}, t("agreement")),
      h("p", { class: "soft" }, t("agreement.what")),
      pairs.length
        ? h("table", {}, h("thead", {}, h("tr", {}, ["who", "both", "same", "kappa"].map((each) => h("th", {}, t(`agreement.${each}`))))), h("tbody", {}, pairs.map((pair) => h("tr", {}, h("td", {}, `${pair.first} · ${pair.second}`), h("td", {}, String(pair.images)), h("td", {}, `${Math.round((100 * pair.agreed) / pair.images)} %`), h("td", {}, pair.kappa === null ? "—" : pair.kappa.toFixed(2))))))
        : h("p", {}, t("agreement.none")),
      h("form", { method: "dialog", class: "row" }, h("button", { class: "primary" }, t("close")), pairs.some((pair) => pair.differing.length) && h("button", { class: "button", onclick: () => { state.filter = "differ"; toolbar(); lay(); } }, t("agreement.show"))),
    );
    document.body.append(dialog);
    dialog.showModal();
  }

  const name = h("input", { type: "text", maxlength: "40", value: settings.annotator, placeholder: t("annotate.name"), title: t("annotate.name"), "aria-label": t("annotate.name"), autocomplete: "nickname", onchange: () => { remember({ annotator: name.value.trim().normalize("NFC") }); lay(); } });
  const bar = h("div", { class: "toolbar" });

  function toolbar() {
    const order = h("select", { "aria-label": t("order"), onchange: () => { state.order = order.value; state.side = false; toolbar(); lay(); } }, ["search", ...set.passes.map((each) => String(each.number))].map((which) => h("option", { value: which, selected: which === state.order }, passName(which))));
    const filter = h("select", { "aria-label": t("filter"), onchange: () => { state.filter = filter.value; lay(); } }, Object.keys(FILTERS).map((which) => h("option", { value: which, selected: which === state.filter }, t(`filter.${which}`))));
    const verb = (value) => h("button", { class: value ? "yes" : "no", "aria-pressed": String(state.verb === value), onclick: () => { state.verb = value; toolbar(); } }, t(value ? "verdict.accept" : "verdict.reject"));
    renew(
      bar,
      h("a", { href: "#/annotate", class: "back", "aria-label": t("back") }, "←"),
      h("h1", { lang: "ja" }, set.word),
      name,
      h("div", { class: "segmented verbs", role: "group", "aria-label": t("annotate.verb") }, verb(true), verb(false)),
      counts,
      h("span", { class: "grow" }),
      filter,
      order,
      set.passes.length > 0 && h("button", { class: "button wide-only", "aria-pressed": String(state.side), onclick: () => { state.side = !state.side; toolbar(); lay(); } }, t("order.side")),
      h("button", { class: "button", onclick: rank }, t("annotate.rank")),
      h("button", { class: "button", onclick: showAgreement }, t("agreement")),
      h("button", { class: "button undo", onclick: undo, title: "Ctrl+Z" }, icon("undo"), t("undo")),
    );
  }

  function globalKeys(event) {
    if (event.key === "z" && event.ctrlKey && !isTyping(event)) {
      event.preventDefault();
      undo();
    } else if (!isTyping(event) && !event.ctrlKey && (event.key === "1" || event.key === "2")) {
      state.verb = event.key === "1";
      toolbar();
    }
  }

  replace(main, bar, jobLine, lanes);
  toolbar();
  lay();
  if (settings.annotator) grids[0].element.focus({ preventScroll: true });
  else name.focus();
  addEventListener("keydown", globalKeys);
  const timer = setInterval(poll, POLL);
  return () => {
    clearInterval(timer);
    removeEventListener("keydown", globalKeys);
    for (const grid of grids) grid.close();
  };
}
