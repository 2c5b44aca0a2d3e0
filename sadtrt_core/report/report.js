"use strict";
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

// Tables: a click on a heading sorts by it, a second one turns the order round; empty cells stay last.
const valueOf = (cell) => {
  const number = cell.dataset.value === undefined ? NaN : Number(cell.dataset.value);
  return Number.isNaN(number) ? cell.textContent : number;
};
const isEmpty = (value) => value === "-" || value === "";
for (const button of all("th button")) {
  button.addEventListener("click", () => {
    const heading = button.parentElement;
    const table = heading.closest("table");
    const up = heading.getAttribute("aria-sort") !== "ascending";
    all("th", table).forEach((other) => other.setAttribute("aria-sort", "none"));
    heading.setAttribute("aria-sort", up ? "ascending" : "descending");
    table.classList.add("sorted");
    const compare = (one, other) => {
      const [a, b] = [one, other].map((row) => valueOf(row.cells[heading.cellIndex]));
      if (isEmpty(a) || isEmpty(b)) return isEmpty(a) - isEmpty(b);
      const order = typeof a === typeof b && typeof a === "number" ? a - b
        : String(a).localeCompare(String(b), "en", { numeric: true });
      return up ? order : -order;
    };
    table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
  });
}
for (const select of all("select")) {
  select.addEventListener("change", () => {
    const wanted = all("select").filter((one) => one.value);
    for (const row of all("tbody tr")) {
      const differs = (one) => (row.dataset[one.dataset.filter] ?? one.value) !== one.value;
      row.hidden = wanted.some(differs);
    }
  });
}

// Clips: one time for all, the first clip's; each video holds reference, candidate and error side by side.
const player = document.querySelector(".player");
if (player) {
  const rate = Number(player.dataset.rate);
  const [button, slider, shown] = [".play", ".frame", "output"].map((one) => player.querySelector(one));
  const clips = all(".clip").map((figure) => ({
    figure,
    video: figure.querySelector("video"),
    both: figure.querySelector(".both"),
    error: figure.querySelector(".error"),
    divider: figure.querySelector(".divider"),
  }));
  const draw = ({ video, both, error, divider }) => {
    if (video.readyState < 2) return;
    const side = video.videoHeight;
    for (const canvas of [both, error]) if (canvas.width !== side) canvas.width = canvas.height = side;
    const cut = Math.round(side * divider.value / 100);
    const [pair, map] = [both, error].map((canvas) => canvas.getContext("2d"));
    if (cut > 0) pair.drawImage(video, 0, 0, cut, side, 0, 0, cut, side);
    if (cut < side) pair.drawImage(video, side + cut, 0, side - cut, side, cut, 0, side - cut, side);
    map.drawImage(video, 2 * side, 0, side, side, 0, 0, side, side);
  };
  const tell = (frame) => {
    slider.value = frame;
    shown.textContent = slider.value;
  };
  const pause = () => {
    clips.forEach(({ video }) => video.pause());
    button.textContent = "Play";
  };
  const seek = (frame) => {
    pause();
    tell(frame);
    // The middle of a frame, so that rounding shows no neighbour.
    clips.forEach(({ video }) => { video.currentTime = (Number(slider.value) + 0.5) / rate; });
  };
  const step = () => {
    const lead = clips[0].video;
    if (lead.paused) return;
    for (const { video } of clips.slice(1)) {
      if (Math.abs(video.currentTime - lead.currentTime) > 1 / rate) video.currentTime = lead.currentTime;
    }
    clips.forEach(draw);
    tell(Math.floor(lead.currentTime * rate));
    requestAnimationFrame(step);
  };
  button.addEventListener("click", async () => {
    if (!clips[0].video.paused) return seek(Math.floor(clips[0].video.currentTime * rate));
    button.textContent = "Pause";
    await Promise.all(clips.map(({ video }) => video.play()));
    step();
  });
  slider.addEventListener("input", () => seek(slider.value));
  for (const clip of clips) {
    clip.video.addEventListener("seeked", () => draw(clip));
    // A browser may call a video sought before it has the frame.
    const follow = (now, { mediaTime }) => {
      draw(clip);
      clip.both.dataset.frame = Math.round(mediaTime * rate);
      clip.video.requestVideoFrameCallback(follow);
    };
    clip.video.requestVideoFrameCallback?.(follow);
    clip.figure.querySelector(".worst").addEventListener("click", () => seek(clip.figure.dataset.worst));
    clip.divider.addEventListener("input", () => {
      clips.forEach((other) => { other.divider.value = clip.divider.value; });
      clips.forEach(draw);
    });
  }
  const loaded = ({ video }) => video.readyState > 1 || new Promise((done) => {
    video.addEventListener("loadeddata", done, { once: true });
  });
  Promise.all(clips.map(loaded)).then(() => {
    slider.max = Math.max(...clips.map(({ video }) => Math.round(video.duration * rate))) - 1;
    seek(clips[0].figure.dataset.worst);
  });
}
