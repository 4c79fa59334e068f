// Copies what the live page needs of onnxruntime-web into runtime/; the list is RUNTIME_FILES of ../web_app.py.

import { copyFileSync, mkdirSync, readFileSync } from "node:fs";

const list = readFileSync(new URL("../web_app.py", import.meta.url), "utf8").match(/RUNTIME_FILES = \(([^)]*)\)/)[1];
const names = [...list.matchAll(/"([^"]+)"/g)].map((match) => match[1]);
mkdirSync(new URL("runtime", import.meta.url), { recursive: true });
for (const name of names) {
  copyFileSync(new URL(`node_modules/onnxruntime-web/dist/${name}`, import.meta.url), new URL(`runtime/${name}`, import.meta.url));
}
