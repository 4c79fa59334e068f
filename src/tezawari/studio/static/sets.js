// What Collect and Annotate share: the sets of the store.

import { get, post } from "./api.js";
import { h } from "./dom.js";
import { t } from "./i18n.js";
import { explain, toast } from "./toast.js";

export const thumbnailUrl = (set, image) => `/api/sets/${set}/thumbnails/${image}`;
export const imageUrl = (set, image) => `/api/sets/${set}/images/${image}`;

export const sourceName = (image) => t(`source.${image.source}`, {}, image.source);

export async function listSets() {
  const sets = await get("/api/sets");
  return sets.sort((a, b) => a.word.localeCompare(b.word, "ja"));
}

export function covers(set) {
  return h("div", { class: "covers", "aria-hidden": "true" }, [0, 1, 2, 3].map((place) => (set.covers[place] ? h("img", { src: thumbnailUrl(set.id, set.covers[place]), alt: "", loading: "lazy" }) : h("span", {}))));
}

export async function putAway(set, changed) {
  try {
    await post(`/api/sets/${set.id}/hide`, { hidden: true });
    changed();
    toast(t("sets.away", { word: set.word }), {
      label: t("undo"),
      run: async () => {
        await post(`/api/sets/${set.id}/hide`, { hidden: false }).catch(explain);
        changed();
      },
    });
  } catch (error) {
    explain(error);
  }
}

export function picture(set, image) {
  const dialog = h(
    "dialog",
    { class: "sheet viewer", onclose: () => dialog.remove(), onclick: (event) => event.target === dialog && dialog.close() },
    h("img", { src: imageUrl(set, image.id), alt: image.title }),
    h("div", {}, h("strong", {}, image.title || "—"), h("p", { class: "soft" }, [image.author, `${image.width} × ${image.height}`, sourceName(image)].filter(Boolean).join(" · ")), h("p", {}, licence(image), image.page_url && " · ", image.page_url && h("a", { href: image.page_url, target: "_blank", rel: "noopener noreferrer" }, t("sets.page")))),
    h("form", { method: "dialog" }, h("button", { class: "primary", autofocus: true }, t("close"))),
  );
  document.body.append(dialog);
  dialog.showModal();
}

export function licence(image) {
  const name = image.licence || t("licence.unknown");
  return image.licence_url ? h("a", { href: image.licence_url, target: "_blank", rel: "noopener noreferrer license" }, name) : h("span", { class: image.licence ? "" : "soft" }, name);
}
