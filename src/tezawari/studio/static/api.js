// Requests to the server this page came from.

export class Failure extends Error {
  constructor(status, code, message, retryAfter) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter;
  }
}

const HEADERS = { "X-Tezawari": "1" };

async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: { ...HEADERS, ...options.headers }, credentials: "same-origin" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure(0, "offline", String(error));
  }
  if (response.ok) return response.status === 204 ? null : response.json();
  const body = await response.json().catch(() => ({}));
  const { code = "bug", message = response.statusText } = body.error ?? {};
  throw new Failure(response.status, code, message, Number(response.headers.get("Retry-After")) || 0);
}

export const get = (path, options) => request(path, options);

export const post = (path, values = {}) =>
  request(path, { method: "POST", body: JSON.stringify(values), headers: { "Content-Type": "application/json" } });

export const send = (path, bytes) =>
  request(path, { method: "POST", body: bytes, headers: { "Content-Type": "application/octet-stream" } });

export const fileOf = (job, name, download = false) => `/api/jobs/${job}/files/${name}${download ? "?download=true" : ""}`;

const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

export const isOver = (job) => ["done", "failed", "cancelled"].includes(job.state);

// Waits for a job, through restarts of the server; `watch` sees every state, `signal` ends the waiting.
export async function follow(job, watch = () => {}, signal = undefined) {
  let state = job;
  let pause = 60;
  for (;;) {
    watch(state);
    if (isOver(state)) break;
    await sleep(pause);
    pause = Math.min(pause * 1.4, 900);
    if (signal?.aborted) throw new DOMException("no longer wanted", "AbortError");
    try {
      state = await get(`/api/jobs/${job.id}`);
    } catch (error) {
      if (error.code !== "offline") throw error;
    }
  }
  if (state.state === "failed") throw new Failure(200, "job", state.error);
  return state;
}

export function save(url) {
  const link = document.createElement("a");
  link.href = url;
  link.download = "";
  document.body.append(link);
  link.click();
  link.remove();
}
