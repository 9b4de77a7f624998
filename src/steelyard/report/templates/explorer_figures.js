"use strict";
// What both explorers draw and write: curves, elements, numbers as text, the announcement, the code to copy.
const explorerFigures = (() => {
  const HEIGHT = 300, LEFT = 44, RIGHT = 14, TOP = 22, BOTTOM = 40;
  const percent = (value) => (Number.isFinite(value) ? `${(100 * value).toFixed(1)}%` : "–");

  function make(tag, attributes = {}, ...inside) {
    const svg = ["g", "path", "line", "circle", "rect", "text", "title"].includes(tag);
    const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) if (value !== undefined) element.setAttribute(key, value);
    element.append(...inside);
    return element;
  }

  // Axes with grid lines in an <svg>; returns the places of numbers and a group to draw in.
  function axes(svg, { x, y, xTicks, yTicks, xTitle, yTitle }) {
    const WIDTH = Math.max(300, Math.min(576, svg.clientWidth || 520));  // letters keep their size
    svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    const px = (value) => LEFT + ((value - x[0]) / (x[1] - x[0])) * (WIDTH - LEFT - RIGHT);
    const py = (value) => HEIGHT - BOTTOM - ((value - y[0]) / (y[1] - y[0])) * (HEIGHT - TOP - BOTTOM);
    const group = make("g");
    for (const tick of xTicks) {
      group.append(make("line", { x1: px(tick), x2: px(tick), y1: TOP, y2: HEIGHT - BOTTOM, stroke: "var(--line)" }));
      group.append(make("text", { x: px(tick), y: HEIGHT - BOTTOM + 16, "text-anchor": "middle" }, `${tick}`));
    }
    for (const tick of yTicks) {
      group.append(make("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: py(tick), y2: py(tick), stroke: "var(--line)" }));
      group.append(make("text", { x: LEFT - 6, y: py(tick) + 4, "text-anchor": "end" }, `${Math.round(100 * tick)}%`));
    }
    group.append(make("text", { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 6, "text-anchor": "middle" }, xTitle));
    if (yTitle) group.append(make("text", { x: 4, y: 12 }, yTitle));
    svg.replaceChildren(group);
    const value = (event) => {  // x under a pointer
      const box = svg.getBoundingClientRect(), at = ((event.clientX - box.left) / box.width) * WIDTH;
      return x[0] + ((at - LEFT) / (WIDTH - LEFT - RIGHT)) * (x[1] - x[0]);
    };
    return { px, py, group, value };
  }

  const line = (points, colour, dash) =>
    make("path", {
      d: points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join(""),
      fill: "none", stroke: colour, "stroke-width": 2, "stroke-dasharray": dash,
    });

  // Round numbers around values from 0 to 1.
  function ticks(values) {
    const known = values.filter(Number.isFinite);
    let low = Math.max(0, Math.min(...known) - 0.03), high = Math.min(1, Math.max(...known) + 0.03);
    const step = [0.01, 0.02, 0.05, 0.1, 0.2].find((one) => (high - low) / one <= 6) || 0.25;
    low = Math.floor(low / step + 1e-9) * step;
    high = Math.ceil(high / step - 1e-9) * step;
    const found = [];
    for (let i = 0; low + i * step <= high + 1e-9; i++) found.push(low + i * step);
    return found;
  }

  // Precision over recall with the chosen point.
  function drawPrecisionRecall(svg, points, now) {
    const { px, py, group } = axes(svg, {
      x: [0, 1], y: [0, 1], xTicks: [0, 0.2, 0.4, 0.6, 0.8, 1], yTicks: [0, 0.25, 0.5, 0.75, 1],
      xTitle: "recall", yTitle: "precision",
    });
    const every = Math.max(1, Math.floor(points.length / 400));
    const thin = points.filter((_, i) => i % every === 0 || i === points.length - 1);
    group.append(line(thin.map((one) => [px(one.recall), py(one.precision)]), "var(--c0)"));
    if (Number.isFinite(now.precision)) {
      const text = `recall ${percent(now.recall)}, precision ${percent(now.precision)}`;
      group.append(make("circle", { cx: px(now.recall), cy: py(now.precision), r: 7, fill: "var(--c1)",
        stroke: "var(--ground)", "stroke-width": 2 }, make("title", {}, text)));
    }
  }

  // A sentence for screen readers, once the hand rests.
  let waiting = 0;
  function say(text) {
    clearTimeout(waiting);
    waiting = setTimeout(() => (document.getElementById("x-said").textContent = text), 600);
  }

  function cards(list, entries) {
    list.replaceChildren(
      ...entries.map(({ title, text, change }) => {
        const small = make("small", {}, change ? change.text : "");
        if (change && change.better) small.className = change.better > 0 ? "x-up" : "x-down";
        return make("div", {}, make("dt", {}, title), make("dd", {}, text, small));
      }),
    );
  }

  function changed(now, before, better = 1) {
    if (!Number.isFinite(now) || !Number.isFinite(before)) return null;
    const points = 100 * (now - before);
    if (Math.abs(points) < 0.05) return { text: "as trained", better: 0 };
    return { text: `${points > 0 ? "+" : "−"}${Math.abs(points).toFixed(1)} points`, better: better * Math.sign(points) };
  }

  // One handler a frame, however often it is asked for.
  function eachFrame(work) {
    let asked = false;
    return () => {
      if (asked) return;
      asked = true;
      requestAnimationFrame(() => { asked = false; work(); });
    };
  }

  async function copy(pre, button) {
    try {
      await navigator.clipboard.writeText(pre.textContent);
      button.textContent = "Copied";
      say("Copied");
    } catch {
      getSelection().selectAllChildren(pre);
      button.textContent = "Selected: press Ctrl C";
    }
    setTimeout(() => (button.textContent = "Copy"), 2500);
  }

  const number = (value) => (value === -Infinity ? 'float("-inf")' : `${Number(value.toPrecision(6))}`);
  const vector = (values) => `[${Array.from(values, number).join(", ")}]`;

  return { make, axes, line, ticks, drawPrecisionRecall, say, cards, changed, eachFrame, copy, number, vector, percent };
})();
