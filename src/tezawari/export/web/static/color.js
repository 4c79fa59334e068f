// Keeping a photo's colours: the restyled picture's lightness under the photo's a and b of CIE Lab (D65).

const LINEAR = Float32Array.from({ length: 256 }, (_, byte) => {
  const value = byte / 255;
  return value > 0.04045 ? ((value + 0.055) / 1.055) ** 2.4 : value / 12.92;
});
const STEPS = 8192;
const BENT = Uint8ClampedArray.from({ length: STEPS + 1 }, (_, step) => {
  const value = step / STEPS;
  return 255 * (value > 0.0031308 ? 1.055 * value ** (1 / 2.4) - 0.055 : 12.92 * value);
});
const WHITE_X = 0.95047;
const WHITE_Z = 1.08883;
const ROOT_ABOVE = 0.008856;

const root = (value) => (value > ROOT_ABOVE ? Math.cbrt(value) : 7.787 * value + 16 / 116);
const cube = (value) => (value > Math.cbrt(ROOT_ABOVE) ? value ** 3 : (value - 16 / 116) / 7.787);
const luminance = (pixels, at) => 0.212671 * LINEAR[pixels[at]] + 0.71516 * LINEAR[pixels[at + 1]] + 0.072169 * LINEAR[pixels[at + 2]];
const bend = (value) => BENT[Math.round(STEPS * Math.min(1, Math.max(0, value)))];

// Both are RGBA bytes of one size; `stylized` is changed.
export function keepColor(stylized, photo) {
  for (let at = 0; at < photo.length; at += 4) {
    const red = LINEAR[photo[at]];
    const green = LINEAR[photo[at + 1]];
    const blue = LINEAR[photo[at + 2]];
    const y = root(0.212671 * red + 0.71516 * green + 0.072169 * blue);
    // a and b are differences of roots, so another lightness shifts all three roots by the same amount.
    const shift = root(luminance(stylized, at)) - y;
    const newX = WHITE_X * cube(root((0.412453 * red + 0.35758 * green + 0.180423 * blue) / WHITE_X) + shift);
    const newY = cube(y + shift);
    const newZ = WHITE_Z * cube(Math.max(0, root((0.019334 * red + 0.119193 * green + 0.950227 * blue) / WHITE_Z) + shift));
    stylized[at] = bend(3.240479 * newX - 1.53715 * newY - 0.498535 * newZ);
    stylized[at + 1] = bend(-0.969256 * newX + 1.875992 * newY + 0.041556 * newZ);
    stylized[at + 2] = bend(0.055648 * newX - 0.204043 * newY + 1.057311 * newZ);
  }
}
