// What the page says, English first.

const PHRASES = {
  language: ["日本語", "English"],
  theme: ["Light or dark", "明るい・暗い"],
  drop: ["Drop a photo here", "ここに写真を置いてください"],
  choose: ["Photo", "写真を選ぶ"],
  camera: ["Camera", "カメラ"],
  stop: ["Stop", "止める"],
  turn: ["Turn", "切りかえ"],
  sample: ["Try a sample", "見本で試す"],
  private: ["Everything is computed on this device. No picture leaves it.", "計算はすべてこの端末の中で行います。写真が外に出ることはありません。"],
  save: ["Save", "保存"],
  styles: ["Styles", "画風"],
  mix: ["Mix", "混ぜる"],
  none: ["None", "なし"],
  color: ["Keep the colours", "元の色を残す"],
  size: ["Size", "大きさ"],
  only: ["Only {name}", "{name} だけ"],
  canvas: ["The picture; hold it to see the original", "絵。押しているあいだ元の写真が見えます"],
  loading: ["Getting the network ready; the first visit fetches it…", "ネットワークを用意しています。初回だけ時間がかかります…"],
  ready: ["Ready: {how}", "準備ができました：{how}"],
  photo: ["{width} × {height} · {ms} ms · {how}", "{width} × {height}・{ms} ミリ秒・{how}"],
  live: ["{width} × {height} · {fps} frames/s · {how}", "{width} × {height}・毎秒 {fps} 枚・{how}"],
  webgpu: ["WebGPU", "WebGPU"],
  wasm: ["WASM × {threads}", "WASM × {threads}"],
  refused: ["The camera is not available: allow it in the browser, or choose a photo.", "カメラが使えません。ブラウザーで許可するか、写真を選んでください。"],
  unreadable: ["That is no picture this browser can read.", "このブラウザーで開ける画像ではありません。"],
  failed: ["This browser cannot run the network: {why}", "このブラウザーではネットワークが動きません：{why}"],
};

const STYLES = {
  composition_vii: ["Composition VII · Kandinsky", "コンポジション VII · カンディンスキー"],
  the_scream: ["The Scream · Munch", "叫び · ムンク"],
  vg_houses: ["Houses · Van Gogh", "家並み · ゴッホ"],
  vg_la_cafe: ["Café Terrace · Van Gogh", "夜のカフェテラス · ゴッホ"],
  vg_self: ["Self-Portrait · Van Gogh", "自画像 · ゴッホ"],
  vg_starry_night: ["Starry Night · Van Gogh", "星月夜 · ゴッホ"],
  vg_wheat_field: ["Wheat Field · Van Gogh", "麦畑 · ゴッホ"],
  wave_crop: ["Great Wave · Hokusai", "神奈川沖浪裏 · 北斎"],
};

export const translate = (language, key, values = {}) =>
  PHRASES[key][language === "ja" ? 1 : 0].replace(/\{(\w+)\}/g, (_, name) => values[name]);

export const styleName = (language, name) => STYLES[name]?.[language === "ja" ? 1 : 0] ?? name.replaceAll("_", " ");
