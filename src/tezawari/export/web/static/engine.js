// The network, in a worker of its own, so that the page never waits for it.

import { keepColor } from "./color.js";

const RUNTIME = new URL("runtime/", self.location.href);

let runtime = null;
let session = null;
let stride = 1;

async function load(model, provider, most) {
  const answer = await fetch(model);
  if (!answer.ok) throw new Error(`${model}: ${answer.status}`);
  const opened = answer.body.pipeThrough(new DecompressionStream("gzip"));
  const bytes = new Uint8Array(await new Response(opened).arrayBuffer());
  runtime = await import(new URL(provider === "webgpu" ? "ort.webgpu.min.mjs" : "ort.wasm.min.mjs", RUNTIME));
  runtime.env.wasm.wasmPaths = RUNTIME.href;
  const threads = self.crossOriginIsolated ? Math.min(most, navigator.hardwareConcurrency) : 1;
  runtime.env.wasm.numThreads = threads;
  session = await runtime.InferenceSession.create(bytes, { executionProviders: [provider], graphOptimizationLevel: "all" });
  return { provider, threads };
}

// Where a row or column beyond the last one is mirrored from.
const mirrored = (place, count) => (place < count ? place : Math.max(0, 2 * count - 2 - place));

// RGBA bytes to three planes in [0, 1], mirrored at the right and below to whole multiples of the stride.
function toPlanes(pixels, width, height, columns, rows) {
  const planes = new Float32Array(3 * columns * rows);
  const area = columns * rows;
  for (let row = 0, to = 0; row < rows; row += 1) {
    const line = mirrored(row, height) * width;
    for (let column = 0; column < columns; column += 1, to += 1) {
      const from = 4 * (line + mirrored(column, width));
      planes[to] = pixels[from] / 255;
      planes[area + to] = pixels[from + 1] / 255;
      planes[2 * area + to] = pixels[from + 2] / 255;
    }
  }
  return planes;
}

function toPixels(planes, width, height, columns, rows) {
  const pixels = new Uint8ClampedArray(4 * width * height);
  const area = columns * rows;
  for (let row = 0, to = 0; row < height; row += 1) {
    for (let from = row * columns, end = from + width; from < end; from += 1, to += 4) {
      pixels[to] = 255 * planes[from];
      pixels[to + 1] = 255 * planes[area + from];
      pixels[to + 2] = 255 * planes[2 * area + from];
      pixels[to + 3] = 255;
    }
  }
  return pixels;
}

async function run(pixels, width, height, weights) {
  const columns = Math.ceil(width / stride) * stride;
  const rows = Math.ceil(height / stride) * stride;
  const photo = new runtime.Tensor("float32", toPlanes(pixels, width, height, columns, rows), [1, 3, rows, columns]);
  const style = new runtime.Tensor("float32", weights, [1, weights.length]);
  const { stylized } = await session.run({ content_image: photo, style_weights: style });
  const result = toPixels(await stylized.getData(), width, height, columns, rows);
  for (const tensor of [photo, style, stylized]) tensor.dispose();
  return result;
}

// Each device has the network in the form that it is fast in; they compute the same.
async function start({ models, styles, backend, threads, ...description }) {
  stride = description.stride;
  const adapter = backend === "wasm" ? null : await navigator.gpu?.requestAdapter();
  // The first run prepares what later ones reuse; it also shows whether the device does what it promised.
  const side = 64;
  const warm = () => run(new Uint8ClampedArray(4 * side * side), side, side, new Float32Array(styles).fill(1 / styles));
  if (adapter) {
    try {
      const found = await load(models.webgpu, "webgpu", threads);
      await warm();
      return found;
    } catch (error) {
      console.warn("WebGPU is there but does not run the network:", error);
    }
  }
  const found = await load(models.wasm, "wasm", threads);
  await warm();
  return found;
}

async function restyle({ pixels, width, height, weights, color }) {
  const began = performance.now();
  const photo = new Uint8ClampedArray(pixels);
  const result = await run(photo, width, height, weights);
  if (color) keepColor(result, photo);
  return { pixels: result.buffer, milliseconds: performance.now() - began };
}

self.onmessage = async ({ data }) => {
  try {
    const answer = await (data.start ? start(data.start) : restyle(data));
    self.postMessage(answer, answer.pixels ? [answer.pixels] : []);
  } catch (error) {
    self.postMessage({ error: String(error?.message ?? error) });
  }
};
