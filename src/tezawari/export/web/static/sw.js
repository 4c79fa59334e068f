// Keeps every file of the page, so that it works without a network, and isolates it, so that it may use threads.

importScripts("shell.js"); // VERSION and SHELL, written by tezawari export

// Pages of other folders on this host keep caches of their own.
const OURS = `tezawari ${self.registration.scope} `;
const NAME = OURS + VERSION;

self.addEventListener("install", (event) => {
  self.skipWaiting();
  event.waitUntil(caches.open(NAME).then((cache) => cache.addAll(SHELL.map((path) => new Request(path, { cache: "no-cache" })))));
});

async function takeOver() {
  for (const name of await caches.keys()) {
    if (name.startsWith(OURS) && name !== NAME) await caches.delete(name);
  }
  await self.clients.claim();
}

self.addEventListener("activate", (event) => event.waitUntil(takeOver()));

// Hosts of static files seldom send these headers.
function isolated(answer) {
  if (answer.status === 0) return answer;
  const headers = new Headers(answer.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  headers.set("Cross-Origin-Resource-Policy", "same-origin");
  return new Response(answer.body, { status: answer.status, statusText: answer.statusText, headers });
}

async function answerFor(event) {
  const cache = await caches.open(NAME);
  const kept = await cache.match(event.request, { ignoreSearch: true });
  if (kept) return isolated(kept);
  const fetched = await fetch(event.request);
  if (fetched.status === 200) await cache.put(event.request, fetched.clone());
  return isolated(fetched);
}

self.addEventListener("fetch", (event) => {
  const { method, url } = event.request;
  if (method === "GET" && url.startsWith(self.registration.scope)) event.respondWith(answerFor(event));
});
