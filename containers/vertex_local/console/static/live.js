// Keeps the page as the server would send it now, and shows one step of a run at a time.
"use strict";

const PERIOD_MS = 2000, LONGEST_MS = 30000;
const FOCUSABLE = "a, button, summary, [tabindex]";
// The HTML of each live part as the server sent it: the page's own differs by what is open and chosen.
let served = new Map();

const liveParts = (page) => new Map([...page.querySelectorAll("[data-live]")].map((part) => [part.id, part]));
const sentAs = (parts) => new Map([...parts].map(([id, part]) => [id, part.outerHTML]));
const atEnd = (box) => box.scrollTop + box.clientHeight >= box.scrollHeight - 4;

function replace(old, fresh) {
  const open = new Map([...old.querySelectorAll("details[id]")].map((one) => [one.id, one.open]));
  const scrolled = [old, ...old.querySelectorAll("pre[id], .canvas")].map((box) => [
    box.id, box.scrollLeft, box.scrollTop, box.matches("[data-tail]") && atEnd(box),
  ]);
  const focused = document.activeElement, place = [...old.querySelectorAll(FOCUSABLE)].indexOf(focused);
  fresh = document.adoptNode(fresh);
  old.replaceWith(fresh);
  for (const [id, isOpen] of open) {
    const details = document.getElementById(id);
    if (details) details.open = isOpen;
  }
  for (const [id, left, top, follows] of scrolled) {
    const box = id && document.getElementById(id);
    if (box) box.scrollTo(left, follows ? box.scrollHeight : top);
  }
  if (place >= 0) {
    const same = focused.id ? document.getElementById(focused.id) : fresh.querySelectorAll(FOCUSABLE)[place];
    same?.focus({ preventScroll: true });
  }
}

async function update() {
  const answer = await fetch(location.pathname + location.search, { cache: "no-store" });
  if (!answer.ok && answer.status !== 404) throw new Error(answer.statusText);
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const fresh = liveParts(page), sent = sentAs(fresh), current = liveParts(document);
  const selection = getSelection();
  if (fresh.size !== current.size || [...fresh.keys()].some((id) => !current.has(id))) {
    replace(document.getElementById("main"), page.getElementById("main"));
    served = sent;
  } else {
    for (const [id, part] of fresh) {
      if (sent.get(id) === served.get(id)) continue;
      // What is being copied stays until it is done.
      if (!selection.isCollapsed && selection.containsNode(current.get(id), true)) continue;
      replace(current.get(id), part);
      served.set(id, sent.get(id));
    }
  }
  document.title = page.title;
  choose();
}

async function follow() {
  const connection = document.getElementById("connection");
  for (let pause = PERIOD_MS; ; ) {
    await new Promise((resolve) => setTimeout(resolve, pause));
    if (document.hidden) {
      await new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
    }
    try {
      await update();
      pause = PERIOD_MS;
      connection.textContent = "";
    } catch {
      pause = Math.min(pause * 1.5, LONGEST_MS);
      connection.textContent = "The emulator does not answer. The page shows what it last said, and goes on trying.";
    }
  }
}

function choose() {
  const steps = [...document.querySelectorAll(".step")];
  if (!steps.length) return null;
  const wanted = decodeURIComponent(location.hash.slice(1));
  const step = steps.find(({ id }) => id === wanted);
  const id = step ? wanted : document.getElementById("live-default").dataset.default;
  for (const one of steps) one.classList.toggle("chosen", one.id === id);
  for (const node of document.querySelectorAll("[data-step]")) {
    if (node.dataset.step === id) node.setAttribute("aria-current", "true");
    else node.removeAttribute("aria-current");
  }
  return step;
}

function reveal(step) {
  step.querySelector("h2").focus({ preventScroll: true });
  const { top } = step.getBoundingClientRect();
  if (top < 0 || top > innerHeight / 2) step.scrollIntoView({ block: "start" });
  step.querySelectorAll("pre[data-tail]").forEach((log) => log.scrollTo(0, log.scrollHeight));
}

function centre() {
  const canvas = document.querySelector(".canvas"), node = document.querySelector("[data-step][aria-current]");
  if (!canvas || !node) return;
  const place = node.getBoundingClientRect(), frame = canvas.getBoundingClientRect();
  canvas.scrollLeft += place.left + place.width / 2 - frame.left - frame.width / 2;
}

document.documentElement.classList.add("js");
addEventListener("popstate", choose);
addEventListener("DOMContentLoaded", () => {
  served = sentAs(liveParts(document));
  const step = choose();
  centre();
  if (step) reveal(step);
  document.querySelectorAll("pre[data-tail]").forEach((log) => log.scrollTo(0, log.scrollHeight));
  follow();
});
document.addEventListener("toggle", ({ target }) => {
  target.querySelectorAll?.("pre[data-tail]").forEach((log) => log.scrollTo(0, log.scrollHeight));
}, true);
document.addEventListener("click", async (event) => {
  const link = event.target.closest("a[href^='#task-']"), button = event.target.closest("[data-copy]");
  if (link && !event.ctrlKey && !event.metaKey && !event.shiftKey) {
    // The browser would scroll to a section that is not shown yet.
    event.preventDefault();
    history.pushState(null, "", link.hash);
    const step = choose();
    if (step) reveal(step);
  }
  if (button) {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  }
});
