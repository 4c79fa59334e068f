// What a browser remembers: language, theme, the annotator's name.

const KEY = "tezawari";

function read() {
  try {
    return JSON.parse(localStorage.getItem(KEY)) ?? {};
  } catch {
    return {};
  }
}

export const settings = {
  language: (navigator.language ?? "en").startsWith("ja") ? "ja" : "en",
  theme: "auto",
  annotator: "",
  ...read(),
};

export function remember(values) {
  Object.assign(settings, values);
  try {
    localStorage.setItem(KEY, JSON.stringify(settings));
  } catch {
    // A browser that keeps nothing forgets it when the page is closed.
  }
}

export function applyTheme() {
  const dark = settings.theme === "dark" || (settings.theme === "auto" && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  return dark;
}
