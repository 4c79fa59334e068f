// Short messages at the foot of the page, with at most one thing to do about each.

import { h, icon } from "./dom.js";
import { t } from "./i18n.js";

const region = h("div", { class: "toasts", role: "status", "aria-live": "polite" });

export function toast(message, action = null, kind = "note") {
  if (!region.isConnected) document.body.append(region);
  const remove = () => element.remove();
  const element = h(
    "div",
    { class: `toast ${kind}` },
    h("span", {}, message),
    action && h("button", { class: "text", onclick: () => { remove(); action.run(); } }, action.label),
    h("button", { class: "bare", "aria-label": t("close"), onclick: remove }, icon("close")),
  );
  region.append(element);
  while (region.children.length > 3) region.firstChild.remove();
  setTimeout(remove, action || kind === "error" ? 9000 : 4500);
}

export function explain(error) {
  if (error.name === "AbortError") return;
  const known = t(`error.${error.code}`, {}, null);
  toast(known ?? error.message, null, "error");
}
