// Masks as the server writes them: pictures in PASCAL VOC's colours, one for each value.

import { h } from "./dom.js";

// The bits of a value, from the lowest up, are the bits of red, green, blue, red, … from the highest down.
function colorOf(value) {
  let color = 0;
  for (let step = 0; step < 3; step++) {
    for (let channel = 0; channel < 3; channel++) color |= ((value >> (3 * step + channel)) & 1) << (8 * (2 - channel) + 7 - step);
  }
  return color;
}

const VALUES = new Map(Array.from({ length: 256 }, (_, value) => [colorOf(value), value]));

// The mask's values, a byte a pixel, at another size by nearest neighbour.
export async function readMask(url, width, height) {
  const image = new Image();
  image.src = url;
  await image.decode();
  const context = h("canvas", { width, height }).getContext("2d", { willReadFrequently: true });
  context.imageSmoothingEnabled = false;
  context.drawImage(image, 0, 0, width, height);
  const { data } = context.getImageData(0, 0, width, height);
  return Uint8Array.from({ length: width * height }, (_, at) => VALUES.get((data[4 * at] << 16) | (data[4 * at + 1] << 8) | data[4 * at + 2]) ?? 0);
}
