"use strict";
// Keeps each drive's words and timeline in step with its video.  Drive time = video time + the first tick's stamp.
const COLOURS = { expert: "#6a9cff", nominal: "#2ed3a2", shifted: "#f5c442", brake: "#ff8c42", stop: "#f35461" };

for (const drive of document.querySelectorAll(".drive")) {
  const video = drive.querySelector("video");
  const line = drive.querySelector(".timeline");
  const plot = line.querySelector(".cursor");
  const head = line.querySelector(".playhead");
  const now = drive.querySelector(".now");
  const list = drive.querySelector(".all");
  const raw = drive.querySelector("pre");
  const said = JSON.parse(drive.querySelector(".said").textContent);
  const series = JSON.parse(drive.querySelector(".series").textContent);
  const outputs = line.querySelectorAll("output");
  const t0 = Number(drive.dataset.t0), from = Number(line.dataset.from), to = Number(line.dataset.to);
  const items = [];
  let shown = -1;

  const element = (tag, name, text) => {
    const made = document.createElement(tag);
    if (name) made.className = name;
    if (text) made.textContent = text;
    return made;
  };
  const seek = (t) => { video.currentTime = Math.max(0, t - t0 + 0.001); update(t); };

  let last = "";
  said.forEach((step, k) => {
    const key = [step.objects.join(), step.says, step.meta, step.source === "shifted" ? "" : step.state].join("|");
    if (key === last) return;
    last = key;
    const item = element("li");
    item.append(element("span", "", step.t.toFixed(1) + " s"));
    item.append(element("span", "", step.says || step.meta || (step.why ? step.state + ": " + step.why : step.state)));
    item.append(element("span", "", step.objects.join(", ") || step.state));
    item.addEventListener("click", () => seek(step.t + 0.1));
    list.append(item);
    items.push([k, item]);
  });

  // The value of each line at the playhead: its last sample, or a dash where it has none.
  const readout = (t) => series.forEach((one, k) => {
    let low = 0, high = one.t.length;
    while (low < high) { const middle = (low + high) >> 1; if (one.t[middle] <= t + 1e-6) low = middle + 1; else high = middle; }
    const value = low ? one.v[low - 1] : null;
    outputs[k].textContent = value === null ? "\u2013" : value.toFixed(one.digits).replace(/^-(0\.?0*)$/, "$1");
  });

  function update(t) {
    readout(t);
    head.style.left = (100 * Math.min(1, Math.max(0, (t - from) / (to - from)))) + "%";
    let k = said.length - 1;
    while (k > 0 && said[k].t >= t - 1e-6) k -= 1;  // the decision at t moves the car from t on, so its ticks are later
    if (k === shown) return;
    shown = k;
    const step = said[k];
    now.textContent = "";
    const when = element("p", "when");
    const dot = element("i");
    dot.style.setProperty("--c", COLOURS[step.source]);
    when.append(dot, element("span", "", step.t.toFixed(1) + " s, " + step.state + (step.why ? " (" + step.why + ")" : "")));
    now.append(when);
    for (const name of step.objects) now.append(element("span", "object", name));
    now.append(element("p", "says", step.says || (step.raw ? "" : "No plan.")));
    if (step.meta) now.append(element("p", "muted", step.meta));
    raw.textContent = step.raw || "(no answer)";
    let on = null;
    for (const [from_k, item] of items) {
      item.classList.remove("on");
      if (from_k <= k) on = item;
    }
    if (on) {
      on.classList.add("on");
      const top = on.offsetTop - list.offsetTop;
      if (top < list.scrollTop || top + on.offsetHeight > list.scrollTop + list.clientHeight) list.scrollTop = top - 70;
    }
  }

  for (const item of drive.querySelectorAll(".happened li")) {
    item.addEventListener("click", () => { mine = false; video.pause(); seek(Number(item.dataset.t)); });
  }
  let mine = true;  // we may start and stop the video, until the viewer takes over

  const pick = (event) => {
    const box = plot.getBoundingClientRect();
    seek(from + (to - from) * Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)));
  };
  line.addEventListener("click", pick);
  line.addEventListener("pointermove", (event) => { if (event.buttons === 1) pick(event); });
  const tick = () => {
    update(video.currentTime + t0);
    if (!video.paused) requestAnimationFrame(tick);
  };
  video.addEventListener("play", tick);
  video.addEventListener("seeked", tick);
  video.addEventListener("timeupdate", tick);
  update(t0);

  if (!matchMedia("(prefers-reduced-motion: reduce)").matches && "IntersectionObserver" in window) {
    let ours = false;
    video.addEventListener("pause", () => { if (!ours && !video.ended) mine = false; ours = false; });
    new IntersectionObserver(([entry]) => {
      if (!mine) return;
      if (entry.isIntersecting && !video.ended) video.play().catch(() => {});
      else if (!video.paused) { ours = true; video.pause(); }
    }, { threshold: 0.6 }).observe(video);
  }
}
