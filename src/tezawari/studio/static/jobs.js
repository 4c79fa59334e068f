// The list of what the studio is working on, behind one button.

import { follow, get, isOver, post } from "./api.js";
import { h, icon, renew, replace } from "./dom.js";
import { t } from "./i18n.js";
import { explain } from "./toast.js";

const PERIOD = 2500;

export function progress(job) {
  const known = job.state === "running" && job.total > 0;
  const phase = job.phase ? t(`phase.${job.phase}`) : "";
  const label = job.state === "running" ? [phase, known ? `${job.done} / ${job.total}` : ""].filter(Boolean).join(" · ") : t(`state.${job.state}`);
  return h(
    "div",
    { class: "progress" },
    h("div", { class: "soft" }, label || t("state.running")),
    h("progress", known ? { max: job.total, value: job.done, "aria-label": label } : job.state === "running" || job.state === "queued" ? { "aria-label": label } : { max: 1, value: 1, "aria-label": label }),
  );
}

async function cancel(job) {
  try {
    await post(`/api/jobs/${job.id}/cancel`);
  } catch (error) {
    explain(error);
  }
}

function cancelButton(job) {
  return h("button", { class: "text", onclick: () => cancel(job) }, t("cancel"));
}

// A job where it was asked for, and what cancels it, until it is over; the job as it ended.
export async function followIn(holder, job, signal, title = () => null) {
  const said = h("div", { class: "said" });
  // Never made anew: a button that is replaced while it is pressed is not clicked.
  replace(holder, said, cancelButton(job));
  try {
    return await follow(job, (state) => replace(said, title(state), progress(state)), signal);
  } finally {
    replace(holder);
  }
}

export async function followInCard(holder, job, title, signal) {
  const card = h("div", { class: "card job" });
  holder.append(card);
  try {
    return await followIn(card, job, signal, title);
  } finally {
    card.remove();
  }
}

// `reached` is told, each time the list is asked for, whether the server answered.
export function jobsButton(reached) {
  const count = h("span", { class: "count", hidden: true });
  const list = h("div", { class: "joblist" });
  const panel = h("div", { class: "panel", popover: "auto", id: "jobs", "aria-label": t("jobs") }, h("h2", {}, t("jobs")), list);
  const button = h("button", { class: "bare", popovertarget: "jobs", "aria-label": t("jobs"), title: t("jobs") }, icon("tasks"), count);
  const refresh = async () => {
    if (!button.isConnected) {
      clearInterval(timer);
      return;
    }
    if (document.hidden) return;
    const jobs = await get("/api/jobs").catch((error) => error);
    reached(jobs.code !== "offline");
    if (!Array.isArray(jobs)) return;
    const active = jobs.filter((job) => !isOver(job)).length;
    count.hidden = active === 0;
    count.textContent = String(active);
    if (!panel.matches(":popover-open")) return;
    renew(
      list,
      jobs.length === 0 && h("p", { class: "soft" }, t("jobs.none")),
      jobs.slice(0, 12).map((job) =>
        h(
          "div",
          { class: `job ${job.state}` },
          h("strong", {}, [t(`kind.${job.kind}`), job.word].filter(Boolean).join(" · ")),
          isOver(job) ? h("div", { class: "soft" }, job.error ?? t(`state.${job.state}`)) : progress(job),
          !isOver(job) && cancelButton(job),
        ),
      ),
    );
  };
  const timer = setInterval(refresh, PERIOD);
  panel.addEventListener("toggle", refresh);
  setTimeout(refresh, 300);
  return [button, panel];
}
