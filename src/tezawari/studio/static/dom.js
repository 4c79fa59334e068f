// Elements as nested calls; text is always text, so nothing a server or a person wrote is ever read as markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.setAttribute("class", value);
    else if (name === "vars") for (const [key, each] of Object.entries(value)) element.style.setProperty(key, each);
    else if (name === "value" || name === "checked" || name === "disabled" || name === "selected") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) {
    if (child !== undefined && child !== null && child !== false) element.append(child);
  }
  return element;
}

export function h(tag, properties, ...children) {
  return fill(document.createElement(tag), properties, children);
}

// The colour that a class has in overlays, beside its name.
export const swatch = (color) => h("span", { class: "swatch", vars: { "--swatch": color }, "aria-hidden": "true" });

const ICONS = {
  sun: "M12 4V2M12 22v-2M4 12H2M22 12h-2M5.6 5.6 4.2 4.2M19.8 19.8l-1.4-1.4M5.6 18.4l-1.4 1.4M19.8 4.2l-1.4 1.4M12 7.5a4.5 4.5 0 1 0 0 9 4.5 4.5 0 0 0 0-9Z",
  moon: "M20 14.5A8.5 8.5 0 0 1 9.5 4 8.5 8.5 0 1 0 20 14.5Z",
  restyle: "M4 20c0-3 1.5-4.5 3.5-4.5S11 17 11 18.500 9 21 4 20ZM11 15 20.500 4.500M9 14l2.500 2.500",
  collect: "M4 5h7v6H4zM13.500 5H20v6h-6.500zM4 13.500h7V19H4zM16.800 13.500v6M13.800 16.500h6",
  words: "M4 20h16M7 20v-5M12 20V5M17 20v-9",
  annotate: "M4 12.500 9 17.500 20 6.500",
  segment: "M4 4h16v16H4zM4 14c5-1 5-5 9-5s4 3 7 2",
  camera: "M4 8h3.500L9 5.500h6L16.500 8H20v11H4zM12 10a3.500 3.500 0 1 0 0 7 3.500 3.500 0 0 0 0-7Z",
  download: "M12 4v11M7.500 11 12 15.500 16.500 11M5 20h14",
  undo: "M9 7 4.500 11.500 9 16M5 11.500h9a5 5 0 0 1 0 10h-2",
  brush: "M4 20c0-3 1.500-4.500 3.500-4.500S11 17 11 18.500 9 21 4 20ZM11 15 20.500 4.500M9 14l2.500 2.500",
  close: "M6 6l12 12M18 6 6 18",
  plus: "M12 5v14M5 12h14",
  tasks: "M5 6h14M5 12h9M5 18h6",
  help: "M9 9a3 3 0 1 1 4.500 2.600c-1 .600-1.500 1.200-1.500 2.400M12 17.500v.500",
};

export function icon(name) {
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name]);
  const svg = document.createElementNS(SVG, "svg");
  for (const [key, value] of [["viewBox", "0 0 24 24"], ["class", "icon"], ["aria-hidden", "true"]]) svg.setAttribute(key, value);
  svg.append(path);
  return svg;
}

export function replace(parent, ...children) {
  parent.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
}

const controlsOf = (parent) => [...parent.querySelectorAll("a[href], button, input, select, summary")];

// Makes a part of the page anew; the keyboard stays on the control that takes the place of the one it was on.
export function renew(parent, ...children) {
  const held = controlsOf(parent).indexOf(document.activeElement);
  replace(parent, ...children);
  if (held >= 0) controlsOf(parent)[held]?.focus({ preventScroll: true });
}

export function debounce(action, milliseconds) {
  let timer = 0;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...values), milliseconds);
  };
}

// Keys of pages do nothing while somebody types or a dialogue is open.
export function isTyping(event) {
  const target = event.target;
  return (
    event.altKey || event.metaKey ||
    Boolean(target.closest?.("dialog, select, textarea")) ||
    (target.tagName === "INPUT" && !["range", "checkbox", "radio"].includes(target.type))
  );
}
