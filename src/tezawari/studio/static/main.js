// The frame of the studio: its pages, the way between them, language, theme and the token.

import { Failure, get, post } from "./api.js";
import { h, icon, isTyping, replace } from "./dom.js";
import { LANGUAGES, t } from "./i18n.js";
import { jobsButton } from "./jobs.js";
import { applyTheme, remember, settings } from "./settings.js";
import { explain } from "./toast.js";
import * as annotate from "./annotate.js";
import * as collect from "./collect.js";
import * as restyle from "./restyle.js";
import * as segment from "./segment.js";
import * as words from "./words.js";

const PAGES = { restyle, collect, annotate, words, segment };

const app = document.getElementById("app");
let leave = () => {};
let studio = null;

function address() {
  const [page, ...rest] = location.hash.replace(/^#\/?/, "").split("/");
  return { page: page in PAGES ? page : "restyle", rest };
}

function frame() {
  document.documentElement.lang = settings.language;
  const dark = applyTheme();
  const { page } = address();
  document.title = `${t(`page.${page}`)} · 手触り`;
  const link = (name) =>
    h("a", { href: `#/${name}`, class: "tab", "aria-current": name === page ? "page" : null }, icon(name), h("span", {}, t(`page.${name}`)));
  const again = (selector) => { show(); document.querySelector(selector)?.focus({ preventScroll: true }); };
  const language = h(
    "div",
    { class: "segmented small", role: "group", "aria-label": t("language") },
    Object.entries(LANGUAGES).map(([code, name]) =>
      h("button", { lang: code, "aria-pressed": String(code === settings.language), "aria-label": name[1], onclick: () => { remember({ language: code }); again(`.tools [lang="${code}"]`); } }, name[0]),
    ),
  );
  const theme = h(
    "button",
    { class: "bare theme", title: t(dark ? "theme.light" : "theme.dark"), "aria-label": t(dark ? "theme.light" : "theme.dark"), onclick: () => { remember({ theme: dark ? "light" : "dark" }); again(".tools .theme"); } },
    icon(dark ? "sun" : "moon"),
  );
  const help = h("button", { class: "bare wide-only", title: t("help.title"), "aria-label": t("help.title"), onclick: () => showHelp(page) }, icon("help"));
  const main = h("main", { id: "main", tabindex: "-1", class: `page ${page}` });
  const gone = h("p", { class: "gone", role: "status", hidden: true }, t("error.offline"));
  replace(
    app,
    h("a", { class: "skip", href: "#main", onclick: (event) => { event.preventDefault(); main.focus(); } }, t("skip")),
    h(
      "header",
      { class: "bar" },
      h("a", { href: "#/restyle", class: "brand", "aria-label": "tezawari" }, h("span", { class: "mark", lang: "ja" }, "手触り"), h("span", { class: "latin" }, "tezawari")),
      h("nav", { class: "tabs", "aria-label": t("pages") }, Object.keys(PAGES).map(link)),
      h("div", { class: "tools" }, studio && jobsButton((answered) => { gone.hidden = answered; }), language, theme, help),
    ),
    gone,
    main,
  );
  return main;
}

function show() {
  leave();
  leave = () => {};
  const { page, rest } = address();
  const main = frame();
  leave = PAGES[page].mount(main, studio, rest) ?? (() => {});
}

function showHelp(page) {
  const rows = ["help.go", ...t(`help.keys.${page}`, {}, "").split(" ").filter(Boolean)];
  const dialog = h(
    "dialog",
    { class: "sheet", onclose: () => dialog.remove() },
    h("h2", {}, t("help.title")),
    h("dl", { class: "keys" }, rows.map((key) => [h("dt", {}, t(`${key}.keys`).split(" ").map((each) => h("kbd", {}, each))), h("dd", {}, t(key))])),
    h("form", { method: "dialog" }, h("button", { class: "primary" }, t("close"))),
  );
  document.body.append(dialog);
  dialog.showModal();
}

function askToken() {
  frame();
  const main = document.getElementById("main");
  const input = h("input", { type: "password", autocomplete: "current-password", required: true, id: "token" });
  const enter = async (event) => {
    event.preventDefault();
    try {
      await post("/api/session", { token: input.value });
      await begin();
    } catch (error) {
      explain(error);
    }
  };
  replace(
    main,
    h("form", { class: "card token", onsubmit: enter }, h("h1", {}, t("token.title")), h("p", { class: "soft" }, t("token.why")), h("label", { for: "token" }, t("token.label")), input, h("button", { class: "primary" }, t("token.enter"))),
  );
  input.focus();
}

async function begin() {
  try {
    studio = await get("/api/studio");
  } catch (error) {
    if (error instanceof Failure && error.status === 401) askToken();
    else explain(error);
    return;
  }
  show();
}

// A link may carry the token behind "#", which no browser sends anywhere by itself.
async function takeToken() {
  const found = /^#token=(.+)$/.exec(location.hash);
  if (!found) return;
  history.replaceState(null, "", "/");
  await post("/api/session", { token: decodeURIComponent(found[1]) }).catch(explain);
}

addEventListener("hashchange", () => {
  if (!studio) return;
  show();
  // The link that led here is gone with the old frame: readers and the Tab key go on from the page.
  document.getElementById("main").focus({ preventScroll: true });
  scrollTo(0, 0);
});
addEventListener("keydown", (event) => {
  if (isTyping(event) || event.ctrlKey) return;
  if (event.key === "?" && !document.querySelector("dialog[open]")) showHelp(address().page);
  const place = ["F2", "F3", "F4", "F6", "F8"].indexOf(event.key);
  if (place >= 0 && event.shiftKey) location.hash = `#/${Object.keys(PAGES)[place]}`;
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => settings.theme === "auto" && studio && show());

await takeToken();
await begin();
