// The list of what the studio is working on, behind one button.

import { follow, get, isOver, post } from "./api.js";
import { h, icon, replace } from "./dom.js";
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

export function cancelButton(job) {
  return h("button", { class: "text", onclick: () => cancel(job) }, t("cancel"));
}

// A job in a card of its own, which can cancel it and goes when it is over; the job as it ended.
export async function followInCard(holder, job, title, signal) {
  const card = h("div", { class: "card job" });
  holder.append(card);
  try {
    return await follow(job, (state) => replace(card, title(state), progress(state), !isOver(state) && cancelButton(state)), signal);
  } finally {
    card.remove();
  }
}

export function jobsButton() {
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
    const jobs = await get("/api/jobs").catch(() => null);
    if (jobs === null) return;
    const active = jobs.filter((job) => !isOver(job)).length;
    count.hidden = active === 0;
    count.textContent = String(active);
    if (!panel.matches(":popover-open")) return;
    replace(
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
