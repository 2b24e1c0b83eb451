"use strict";
// Every .chart element names a panel of the embedded data; its lines are drawn as SVG, to be hovered and zoomed.
const SVG = "http://www.w3.org/2000/svg";
const panels = JSON.parse(document.getElementById("curves").textContent);

function make(name, attributes, parent) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  parent.append(element);
  return element;
}

function ticks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((each) => each >= rough);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-9; value += step) found.push(value);
  return found;
}

function text(value) {
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e5)) return value.toExponential(2);
  return String(Number(value.toPrecision(4)));
}

function chart(box, panel) {
  const svg = box.querySelector("svg");
  const legend = box.querySelector(".legend");
  const hidden = new Set();
  const whole = [Math.min(...panel.flatMap((line) => line.x)), Math.max(...panel.flatMap((line) => line.x))];
  if (whole[0] === whole[1]) whole.splice(0, 2, whole[0] - 1, whole[1] + 1); // a single point stands in the middle
  let range = whole.slice();
  let scale = null;

  // evaluations have the colour of the same number of training steps, and dashes
  const plain = (line) => line.name.replace("eval:", "");
  const names = [...new Set(panel.map(plain))];
  const colour = (line) => `var(--s${names.indexOf(plain(line)) % 8})`;
  const twin = (line) => line.name.startsWith("eval:") && panel.some((other) => other.name === plain(line));

  panel.forEach((line, index) => {
    const button = document.createElement("button");
    button.textContent = line.name;
    button.style.setProperty("--colour", colour(line));
    button.classList.toggle("dashed", twin(line));
    button.setAttribute("aria-pressed", "true");
    button.addEventListener("click", () => {
      hidden.has(index) ? hidden.delete(index) : hidden.add(index);
      button.setAttribute("aria-pressed", String(!hidden.has(index)));
      draw();
    });
    legend.append(button);
  });

  function draw() {
    svg.replaceChildren();
    const width = svg.clientWidth || 400, height = svg.clientHeight || 240;
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const left = 52, right = width - 8, top = 8, bottom = height - 20;
    const shown = panel.map((line, index) => ({ ...line, index })).filter((line) => !hidden.has(line.index));
    const values = shown.flatMap((line) => line.y.filter((y, k) => line.x[k] >= range[0] && line.x[k] <= range[1]));
    let low = Math.min(...values), high = Math.max(...values);
    if (!values.length) [low, high] = [0, 1];
    if (low === high) [low, high] = [low - Math.abs(low) * 0.1 - 1e-9, high + Math.abs(high) * 0.1 + 1e-9];
    const x = (value) => left + ((value - range[0]) / (range[1] - range[0] || 1)) * (right - left);
    const y = (value) => bottom - ((value - low) / (high - low)) * (bottom - top);
    scale = { x, left, right, top, bottom, shown };
    for (const value of ticks(low, high, 4)) {
      make("line", { class: "grid", x1: left, x2: right, y1: y(value), y2: y(value) }, svg);
      make("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, svg).textContent = text(value);
    }
    for (const value of ticks(range[0], range[1], 5))
      make("text", { x: Math.min(x(value), right - 8), y: height - 4, "text-anchor": "middle" }, svg).textContent = text(value);
    for (const line of shown) {
      const near = line.x.map((value, k) => [value, line.y[k]]).filter(([value], k) =>
        (line.x[k + 1] ?? value) >= range[0] && (line.x[k - 1] ?? value) <= range[1]);
      const path = near.map(([value, score], k) => `${k ? "L" : "M"}${x(value).toFixed(1)},${y(score).toFixed(1)}`);
      const look = { stroke: colour(line), "stroke-width": 1.6, "stroke-dasharray": twin(line) ? "5 3" : "none" };
      make("path", { class: "line", d: path.join(""), fill: "none", ...look }, svg);
      if (near.length < 30)
        for (const [value, score] of near) make("circle", { cx: x(value), cy: y(score), r: 2.2, fill: colour(line) }, svg);
    }
  }

  function place(event) {
    const bounds = svg.getBoundingClientRect();
    const at = Math.min(Math.max(event.clientX - bounds.left, scale.left), scale.right);
    return range[0] + ((at - scale.left) / (scale.right - scale.left)) * (range[1] - range[0]);
  }

  function hover(event) {
    svg.querySelectorAll(".cursor, .select, .value, .behind").forEach((element) => element.remove());
    const at = place(event);
    if (from !== null) {
      const [a, b] = [scale.x(from), scale.x(at)].sort((p, q) => p - q);
      make("rect", { class: "select", x: a, y: scale.top, width: b - a, height: scale.bottom - scale.top }, svg);
    }
    const nearest = scale.shown.map((line) => {
      const k = line.x.reduce((best, value, i) => (Math.abs(value - at) < Math.abs(line.x[best] - at) ? i : best), 0);
      return { name: line.name, x: line.x[k], y: line.y[k] };
    }).filter((point) => point.x !== undefined);
    if (!nearest.length) return;
    const step = nearest.reduce((best, point) => (Math.abs(point.x - at) < Math.abs(best - at) ? point.x : best), nearest[0].x);
    make("line", { class: "cursor", x1: scale.x(step), x2: scale.x(step), y1: scale.top, y2: scale.bottom }, svg);
    const side = scale.x(step) > (scale.left + scale.right) / 2;
    const anchor = { class: "value", x: scale.x(step) + (side ? -8 : 8), "text-anchor": side ? "end" : "start" };
    const lines = [`step ${step}`, ...nearest.map((point) => `${point.name} ${text(point.y)}`)];
    const behind = make("rect", { class: "behind", rx: 3 }, svg);
    const boxes = lines.map((content, k) => {
      const written = make("text", { ...anchor, y: scale.top + 12 + 13 * k }, svg);
      written.textContent = content;
      return written.getBBox();
    });
    const widest = boxes.reduce((best, each) => (each.width > best.width ? each : best));
    const area = { x: widest.x - 4, y: scale.top, width: widest.width + 8, height: 13 * lines.length + 4 };
    for (const [key, value] of Object.entries(area)) behind.setAttribute(key, value);
  }

  let from = null;
  svg.addEventListener("pointerdown", (event) => { from = place(event); });
  svg.addEventListener("pointermove", hover);
  svg.addEventListener("pointerleave", () => { from = null; draw(); });
  svg.addEventListener("pointerup", (event) => {
    const to = place(event);
    if (from !== null && Math.abs(scale.x(to) - scale.x(from)) > 8) range = [from, to].sort((a, b) => a - b);
    from = null;
    draw();
  });
  svg.addEventListener("dblclick", () => { range = whole.slice(); draw(); });
  new ResizeObserver(draw).observe(svg);
  draw();
}

document.querySelectorAll(".chart").forEach((box) => chart(box, panels[box.dataset.panel]));
