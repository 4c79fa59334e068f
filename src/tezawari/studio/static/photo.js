// A photo from a file, the clipboard, a drop or the camera, sent to the server, which gives it an id.

import { post, send } from "./api.js";
import { h, icon } from "./dom.js";
import { t } from "./i18n.js";
import { explain, toast } from "./toast.js";

const TYPES = "image/jpeg,image/png,image/webp,image/gif,image/avif";
const MOST_BYTES = 32_000_000;

export async function upload(blob) {
  if (blob.size > MOST_BYTES) {
    toast(t("error.large"), null, "error");
    return null;
  }
  try {
    return await send("/api/photos", blob);
  } catch (error) {
    explain(error);
    return null;
  }
}

async function sample() {
  try {
    return await post("/api/photos/sample");
  } catch (error) {
    explain(error);
    return null;
  }
}

async function shoot(take) {
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 1920 } } });
  } catch {
    toast(t("camera.refused"), null, "error");
    return;
  }
  const video = h("video", { autoplay: true, playsinline: true, "aria-label": t("camera") });
  video.muted = true;
  video.srcObject = stream;
  const stop = () => {
    for (const track of stream.getTracks()) track.stop();
    dialog.remove();
  };
  const capture = () => {
    if (!video.videoWidth) return;
    const canvas = h("canvas", { width: video.videoWidth, height: video.videoHeight });
    canvas.getContext("2d").drawImage(video, 0, 0);
    canvas.toBlob((blob) => { dialog.close(); take(blob); }, "image/jpeg", 0.95);
  };
  const dialog = h(
    "dialog",
    { class: "sheet camera", onclose: stop },
    video,
    h("div", { class: "row" }, h("button", { class: "primary", onclick: capture, autofocus: true }, icon("camera"), t("camera.take")), h("button", { class: "text", onclick: () => dialog.close() }, t("cancel"))),
  );
  document.body.append(dialog);
  dialog.showModal();
}

// Drops and pastes, once for a target however often its buttons are made anew.
const listening = new WeakSet();

function listen(target, bring) {
  if (listening.has(target)) return;
  listening.add(target);
  const dropped = (event) => {
    event.preventDefault();
    target.classList.remove("over");
    const file = event.dataTransfer?.files[0];
    if (file) bring(upload(file));
  };
  target.addEventListener("dragover", (event) => { event.preventDefault(); target.classList.add("over"); });
  target.addEventListener("dragleave", () => target.classList.remove("over"));
  target.addEventListener("drop", dropped);
  const pasted = (event) => {
    if (!target.isConnected) {
      removeEventListener("paste", pasted);
      return;
    }
    const file = [...(event.clipboardData?.files ?? [])].find((each) => each.type.startsWith("image/"));
    if (file) bring(upload(file));
  };
  addEventListener("paste", pasted);
}

// Buttons that bring a photo; `taken` gets what the server says of it. Drops on `target` and pastes count, too.
export function photoIntake(target, taken, compact = false) {
  const note = h("span", { class: "soft", role: "status" });
  const bring = async (making) => {
    note.textContent = t("photo.sending");
    const photo = await making;
    note.textContent = "";
    if (photo) taken(photo);
  };
  const input = h("input", { type: "file", accept: TYPES, class: "hidden-input", "aria-label": t("photo.choose"), onchange: () => { if (input.files[0]) bring(upload(input.files[0])); input.value = ""; } });
  const choose = h("label", { class: compact ? "button" : "button primary" }, icon("plus"), t("photo.choose"), input);
  const camera = h("button", { class: "button", onclick: () => shoot((blob) => bring(upload(blob))) }, icon("camera"), t("camera"));
  listen(target, bring);
  const buttons = h("div", { class: "row" }, choose, camera, !compact && h("button", { class: "text", onclick: () => bring(sample()) }, t("photo.sample")), note);
  if (compact) return buttons;
  return h("div", { class: "intake" }, h("p", { class: "lead" }, t("photo.drop")), buttons, h("p", { class: "soft" }, t("photo.kept")));
}

export const photoUrl = (photo) => `/api/photos/${photo.id}`;
