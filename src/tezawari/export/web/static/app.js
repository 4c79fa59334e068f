// The page: a photo or the camera, a slider for each style, the picture to take away.

import { styleName, translate } from "./i18n.js";

const SIZES = [128, 192, 256, 320, 384, 512, 768, 1024];
const FPS_OVER = 2000; // milliseconds
const MOST_THREADS = 8;
const MOST_LANES = 4;
const REMEMBERED = "tezawari-live";
const $ = (id) => document.getElementById(id);

const settings = {
  language: navigator.language.startsWith("ja") ? "ja" : "en",
  theme: matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light",
  ...JSON.parse(localStorage.getItem(REMEMBERED) ?? "{}"),
};
const t = (key, values) => translate(settings.language, key, values);

// `side` is that of a square of as many pixels, so that a size takes the same time whatever the proportions.
const state = { source: null, photo: null, stream: null, facing: "environment", weights: [], side: { photo: 512, camera: 256 } };
const canvas = $("canvas");
const screen = canvas.getContext("2d");
const grabbed = document.createElement("canvas");
const grab = grabbed.getContext("2d", { willReadFrequently: true });
let app = null;
let engine = null;
let device = null; // what computes, and on how many threads
let lanes = null; // what restyles the camera, once it was asked for
let said = null;

function remember(values) {
  Object.assign(settings, values);
  const { language, theme } = settings;
  localStorage.setItem(REMEMBERED, JSON.stringify({ language, theme }));
}

function say(key, values = {}, error = false) {
  const status = $("status");
  said = { key, values };
  status.textContent = t(key, { ...values, how: device && t(device.provider, { threads: device.threads, ...values }) });
  status.classList.toggle("error", error);
  Object.assign(status.dataset, { key, ...values });
}

function speak() {
  document.documentElement.lang = settings.language;
  document.documentElement.dataset.theme = settings.theme;
  for (const element of document.querySelectorAll("[data-t]")) element.textContent = t(element.dataset.t);
  $("language").textContent = t("language");
  $("language").lang = settings.language === "ja" ? "en" : "ja";
  $("theme").ariaLabel = t("theme");
  canvas.ariaLabel = t("canvas");
  canvas.role = "img";
  $("toggle").textContent = t(state.source === "camera" ? "stop" : "camera");
  if (said) say(said.key, said.values, $("status").classList.contains("error"));
}

// A worker that runs the network: one question at a time, answered before the next one is put.
function open() {
  const worker = new Worker("engine.js", { type: "module" });
  let asked = null;
  let before = Promise.resolve();
  worker.onmessage = ({ data }) => (data.error ? asked.reject(new Error(data.error)) : asked.resolve(data));
  worker.onerror = (event) => asked.reject(new Error(event.message));
  return (message, transfer = []) => {
    const put = (resolve, reject) => {
      asked = { resolve, reject };
      worker.postMessage(message, transfer);
    };
    const answer = before.then(() => new Promise(put));
    before = answer.catch(() => {});
    return answer;
  };
}

function begin(ask, threads, backend) {
  const models = Object.fromEntries(Object.entries(app.models).map(([provider, file]) => [provider, new URL(file, location.href).href]));
  return ask({ start: { models, stride: app.stride, styles: app.styles.length, backend, threads } });
}

// The camera's picture is cut to what the network takes whole; a photo is never cut.
function fitted(width, height) {
  const side = Math.min(state.side[state.source], Math.sqrt(width * height));
  const step = state.source === "camera" ? app.stride : 1;
  const scale = side / Math.sqrt(width * height);
  return [width, height].map((length) => Math.max(16, Math.round((length * scale) / step) * step));
}

function grabFrom(source, width, height) {
  const [columns, rows] = fitted(width, height);
  const scale = Math.min(width / columns, height / rows);
  const [w, h] = [columns * scale, rows * scale];
  if (grabbed.width !== columns || grabbed.height !== rows) Object.assign(grabbed, { width: columns, height: rows });
  grab.imageSmoothingQuality = "high";
  grab.drawImage(source, (width - w) / 2, (height - h) / 2, w, h, 0, 0, columns, rows);
  return grab.getImageData(0, 0, columns, rows);
}

function show(image) {
  if (canvas.width !== image.width || canvas.height !== image.height) {
    Object.assign(canvas, { width: image.width, height: image.height });
    canvas.style.setProperty("--ratio", image.width / image.height);
  }
  screen.putImageData(image, 0, 0);
}

let holding = false; // while the picture is held, the original shows

async function restyled(original, ask) {
  const weights = Float32Array.from(state.weights);
  if (holding || !weights.some((weight) => weight > 0)) return { image: original, milliseconds: 0 };
  const pixels = original.data.buffer;
  const { width, height } = original;
  const answer = await ask({ pixels, width, height, weights, color: $("color").checked }, [pixels]);
  return { image: new ImageData(new Uint8ClampedArray(answer.pixels), width, height), milliseconds: answer.milliseconds };
}

// Photos: only the newest wish counts, while one picture is made further wishes are one.
let wishes = 0;
let drawing = false;

async function draw() {
  wishes += 1;
  if (drawing || state.source !== "photo" || !engine) return;
  drawing = true;
  try {
    for (let made = -1; made !== wishes && state.source === "photo"; ) {
      made = wishes;
      const { image, milliseconds } = await restyled(grabFrom(state.photo, state.photo.width, state.photo.height), engine);
      if (state.source !== "photo") break;
      show(image);
      say("photo", { width: image.width, height: image.height, ms: Math.round(milliseconds) });
    }
  } catch (error) {
    say("failed", { why: error.message }, true);
  } finally {
    drawing = false;
  }
}

// Two frames at a time on two cores take less than each of them on both: nothing waits for the other core. So the camera
// has engines of one thread each; a graphics processor has all its cores at every frame, and one engine.
async function openLanes() {
  if (device.provider === "webgpu") return [engine];
  const opened = Array.from({ length: Math.min(MOST_LANES, navigator.hardwareConcurrency) }, open);
  await Promise.all(opened.map((ask) => begin(ask, 1, "wasm")));
  return opened;
}

const drawn = () => new Promise(requestAnimationFrame);

async function live(stream, asking) {
  const video = $("video");
  const times = [];
  let taken = 0;
  let newest = 0;
  let last = 0;
  let pace = 0;
  // No frame of the camera is worth restyling twice. A little less than its period, since pages are drawn at fixed times.
  const period = 900 / (stream.getVideoTracks()[0].getSettings().frameRate ?? 30);

  const present = ({ image, number }) => {
    if (number < newest) return; // a slower lane's, overtaken
    newest = number;
    show(image);
    const now = performance.now();
    times.push(now);
    while (times.length > 2 && times[0] < now - FPS_OVER) times.shift();
    const fps = times.length < 2 ? 0 : ((times.length - 1) * 1000) / (now - times[0]);
    say("live", { width: image.width, height: image.height, fps: fps.toFixed(1), threads: asking.length });
  };

  const due = () => video.videoWidth > 0 && performance.now() >= last + pace;

  const run = async (ask) => {
    let made = null;
    while (state.stream === stream) {
      if (!due()) {
        if (made) present(made);
        made = null;
        await drawn();
        continue;
      }
      const number = (taken += 1);
      last = performance.now();
      // The network begins with the next frame, and only then is the last one shown: neither waits for the other.
      const coming = restyled(grabFrom(video, video.videoWidth, video.videoHeight), ask);
      if (made) present(made);
      const [{ image, milliseconds }] = await Promise.all([coming, drawn()]);
      // At even distances, or lanes would show their frames in pairs.
      pace = Math.max(period, (0.8 * milliseconds) / asking.length);
      made = { image, number };
    }
  };
  await Promise.all(asking.map(run));
}

function stopCamera() {
  for (const track of state.stream?.getTracks() ?? []) track.stop();
  state.stream = null;
}

function use(source) {
  state.source = source;
  $("intake").hidden = true;
  $("shown").hidden = false;
  $("size").value = String(state.side[source]);
  $("turn").hidden = source !== "camera" || !("ontouchstart" in window);
  speak();
}

async function usePhoto(blob) {
  let photo;
  try {
    photo = await createImageBitmap(blob);
  } catch {
    say("unreadable", {}, true);
    return;
  }
  stopCamera();
  state.photo = photo;
  use("photo");
  if (!engine) show(grabFrom(photo, photo.width, photo.height));
  draw();
}

async function useCamera() {
  stopCamera();
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: state.facing, width: { ideal: 640 }, height: { ideal: 480 } } });
  } catch {
    say("refused", {}, true);
    return;
  }
  state.stream = stream;
  use("camera");
  const video = $("video");
  video.muted = true;
  video.srcObject = stream;
  await video.play();
  await starting;
  if (!engine) {
    stopCamera(); // why there is none has been said
    return;
  }
  try {
    if (!lanes) say("loading");
    await live(stream, await (lanes ??= openLanes()));
  } catch (error) {
    stopCamera();
    say("failed", { why: error.message }, true);
  }
}

// The camera is put down, its last picture stays as a photo.
async function freeze() {
  const video = $("video");
  const photo = video.videoWidth ? await createImageBitmap(video) : null;
  stopCamera();
  if (photo) state.photo = photo;
  if (state.photo) {
    use("photo");
    draw();
  }
}

function save() {
  const styles = app.styles.filter((_, place) => state.weights[place] > 0).map(({ name }) => name);
  canvas.toBlob((blob) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `tezawari-${styles.slice(0, 3).join("-") || "photo"}.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }, "image/png");
}

const actions = {
  choose: () => $("file").click(),
  camera: () => (state.source === "camera" ? freeze() : useCamera()),
  turn: () => {
    state.facing = state.facing === "user" ? "environment" : "user";
    useCamera();
  },
  sample: async () => usePhoto(await (await fetch("sample.jpg")).blob()),
  save,
  mix: () => weigh(state.weights.map(() => 1 / state.weights.length)),
  none: () => weigh(state.weights.map(() => 0)),
};

function weigh(weights) {
  state.weights = weights;
  for (const [place, card] of [...$("styles").children].entries()) {
    card.classList.toggle("on", weights[place] > 0);
    card.querySelector("input").value = String(weights[place]);
    card.querySelector("output").textContent = String(Math.round(100 * weights[place]));
  }
  draw();
}

function card({ name, picture }, place) {
  const element = document.createElement("div");
  element.className = "style";
  element.innerHTML =
    '<button class="pick"><img alt="" width="160" height="100"></button>' +
    '<div class="name"><span></span><output></output></div><input type="range" min="0" max="1" step="0.05">';
  element.querySelector("img").src = picture;
  element.querySelector(".pick").onclick = () => weigh(state.weights.map((_, other) => Number(other === place)));
  element.querySelector("input").oninput = ({ target }) => weigh(state.weights.map((weight, other) => (other === place ? Number(target.value) : weight)));
  element.named = () => {
    const title = styleName(settings.language, name);
    element.querySelector("span").textContent = title;
    element.querySelector("span").title = title;
    element.querySelector("input").ariaLabel = title;
    element.querySelector(".pick").ariaLabel = t("only", { name: title });
  };
  return element;
}

// The service worker keeps the files and isolates the page; a page that it did not isolate yet loads once more.
async function takenCareOf() {
  if (!navigator.serviceWorker) return;
  const controlled = new Promise((resolve) => navigator.serviceWorker.addEventListener("controllerchange", resolve, { once: true }));
  try {
    await navigator.serviceWorker.register("sw.js");
  } catch {
    return; // a private window: it works, online and on one thread
  }
  if (!navigator.serviceWorker.controller) await Promise.race([controlled, new Promise((resolve) => setTimeout(resolve, 15_000))]);
  if (!self.crossOriginIsolated && navigator.serviceWorker.controller && !sessionStorage.getItem(REMEMBERED)) {
    sessionStorage.setItem(REMEMBERED, "loaded again");
    location.reload();
    await new Promise(() => {});
  }
}

async function start() {
  app = await (await fetch("app.json")).json();
  state.weights = app.styles.map(() => 0);
  $("styles").replaceChildren(...app.styles.map(card));
  translateCards();
  $("size").replaceChildren(...SIZES.map((size) => new Option(`${size} px`, String(size))));
  $("size").value = String(state.side.photo);
  weigh(app.styles.map((_, place) => Number(place === 0)));
  say("loading");
  $("progress").hidden = false;
  try {
    await takenCareOf();
    const ask = open();
    device = await begin(ask, MOST_THREADS, new URLSearchParams(location.search).get("backend"));
    engine = ask;
    say("ready");
    draw();
  } catch (error) {
    say("failed", { why: error.message }, true);
  } finally {
    $("progress").hidden = true;
  }
}

function translateCards() {
  for (const each of $("styles").children) each.named();
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-do]");
  if (button) actions[button.dataset.do]();
});
$("file").onchange = ({ target }) => {
  if (target.files[0]) usePhoto(target.files[0]);
  target.value = "";
};
$("color").onchange = draw;
$("size").onchange = ({ target }) => {
  if (state.source) state.side[state.source] = Number(target.value);
  draw();
};
$("language").onclick = () => {
  remember({ language: settings.language === "ja" ? "en" : "ja" });
  speak();
  translateCards();
};
$("theme").onclick = () => {
  remember({ theme: settings.theme === "dark" ? "light" : "dark" });
  speak();
};
const hold = (down) => () => {
  if (holding !== down) {
    holding = down;
    draw();
  }
};
canvas.addEventListener("pointerdown", hold(true));
for (const name of ["pointerup", "pointercancel", "pointerleave", "blur"]) canvas.addEventListener(name, hold(false));
canvas.addEventListener("keydown", (event) => event.key === " " && hold(true)());
canvas.addEventListener("keyup", hold(false));
canvas.addEventListener("contextmenu", (event) => event.preventDefault());
$("stage").addEventListener("dragover", (event) => {
  event.preventDefault();
  $("stage").classList.add("over");
});
$("stage").addEventListener("dragleave", () => $("stage").classList.remove("over"));
$("stage").addEventListener("drop", (event) => {
  event.preventDefault();
  $("stage").classList.remove("over");
  if (event.dataTransfer.files[0]) usePhoto(event.dataTransfer.files[0]);
});
addEventListener("paste", (event) => {
  const image = [...event.clipboardData.files].find((file) => file.type.startsWith("image/"));
  if (image) usePhoto(image);
});

speak();
const starting = start();
