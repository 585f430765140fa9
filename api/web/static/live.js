// A page with data-live is kept as the server has it: asked for again every few seconds, and at once when the job's
// stream of events or a button says so. What is the same costs an answer without a body.
import { sayTimes } from "./times.js";

const POLL_MS = 2000;
let etag = null;
let asking = false;
let again = false;

export function follow(main) {
  if (main === null) return;
  let stream = null;
  if (main.dataset.events) {
    stream = new EventSource(main.dataset.events);
    stream.onmessage = () => ask();
    // Events have names of their own, which a listener must know.
    for (const name of ["job.running", "round.stored", "job.paused", "job.queued", "job.succeeded", "job.failed",
      "job.canceled", "job.pausing", "job.canceling"]) stream.addEventListener(name, () => ask());
  }
  document.addEventListener("changed", () => ask());
  document.addEventListener("visibilitychange", () => document.hidden || ask());
  const timer = setInterval(() => document.hidden || ask(), POLL_MS);

  async function ask() {
    again = asking;
    if (asking) return;
    asking = true;
    try {
      if (!(await refresh())) {
        clearInterval(timer);
        stream?.close();
      }
    } catch {
      // The service is away: the next turn asks again.
    } finally {
      asking = false;
      if (again) ask();
    }
  }
}

// False: the page is no live one any more.
async function refresh() {
  const headers = etag === null ? {} : { "If-None-Match": etag };
  const response = await fetch(location.href, { headers, credentials: "same-origin" });
  if (response.status === 304) return true;
  if (response.redirected || response.headers.get("content-type")?.startsWith("text/html") !== true) {
    location.reload();
    return false;
  }
  if (!response.ok) return response.status >= 500;
  etag = response.headers.get("etag");
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  await Promise.all([...document.querySelectorAll("[data-region]")].map((old) => replace(old, page)));
  const isLive = page.querySelector("main[data-live]") !== null;
  if (!isLive) document.querySelector("main").removeAttribute("data-live");
  return isLive;
}

const shown = new Map();

async function replace(old, page) {
  const fresh = page.getElementById(old.id);
  if (fresh === null) return;
  const source = fresh.innerHTML;
  if (shown.get(old.id) === source) return;
  shown.set(old.id, source);
  await loaded(fresh);
  for (const details of fresh.querySelectorAll("details[id]")) {
    const before = old.ownerDocument.getElementById(details.id);
    if (before !== null) details.open = before.open;
  }
  const scrolled = [...old.querySelectorAll(".scroll, .events")].map((each) => [each.scrollLeft, each.scrollTop]);
  const focused = old.contains(document.activeElement) ? document.activeElement.id : "";
  sayTimes(fresh);
  old.replaceChildren(...fresh.childNodes);
  old.querySelectorAll(".scroll, .events").forEach((each, index) => each.scrollTo(...(scrolled[index] ?? [0, 0])));
  if (focused !== "") (document.getElementById(focused) ?? document.querySelector("main")).focus();
}

// The new pictures first, so that none is ever missing on the page.
async function loaded(fresh) {
  const isDark = matchMedia("(prefers-color-scheme: dark)").matches;
  const addresses = [...fresh.querySelectorAll("picture")].map((picture) =>
    isDark ? picture.querySelector("source").srcset : picture.querySelector("img").getAttribute("src"));
  await Promise.allSettled(addresses.map((address) => {
    const image = new Image();
    image.src = address;
    return image.decode();
  }));
}
