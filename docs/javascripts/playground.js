// The playground of docs/theory.md: a softmax regression on three classes in the plane, refitted while weights are dragged.
// tests/test_site.py compares its numbers with those of steelyard.balance and steelyard.forecasting.
"use strict";

const playground = (() => {
  const COUNTS = [240, 60, 20];
  const CENTRES = [[-1, -0.6], [1.1, -0.7], [0.1, 1.2]];
  const NAMES = ["A", "B", "C"];
  const DECAY = 5e-4;
  const BOX = [-3.2, 3.2, -2.6, 3];

  function mulberry(seed) {
    return () => {
      seed = (seed + 0x6d2b79f5) | 0;
      let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
      t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
      return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
    };
  }

  // The same draws for every spread: points move, and are not drawn again.
  function sample(spread) {
    const next = mulberry(7);
    const points = [];
    COUNTS.forEach((count, k) => {
      for (let i = 0; i < count; i++) {
        const radius = spread * Math.sqrt(-2 * Math.log(1 - next()));
        const angle = 2 * Math.PI * next();
        points.push([CENTRES[k][0] + radius * Math.cos(angle), CENTRES[k][1] + radius * Math.sin(angle), k]);
      }
    });
    return points;
  }

  const logits = (theta, x, y) => [0, 1, 2].map((k) => theta[3 * k] * x + theta[3 * k + 1] * y + theta[3 * k + 2]);

  function softmax(z) {
    const top = Math.max(...z);
    const e = z.map((value) => Math.exp(value - top));
    const sum = e[0] + e[1] + e[2];
    return e.map((value) => value / sum);
  }

  // Weighted mean of the cross-entropy, and half the decay times the squared slopes; the biases do not decay.
  function objective(points, share, theta) {
    let value = 0;
    for (const [x, y, k] of points) {
      const z = logits(theta, x, y);
      const top = Math.max(...z);
      value += share[k] * (top + Math.log(z.reduce((sum, one) => sum + Math.exp(one - top), 0)) - z[k]);
    }
    for (let i = 0; i < 9; i++) if (i % 3 !== 2) value += (DECAY / 2) * theta[i] ** 2;
    return value;
  }

  function solve(matrix, vector) {
    const n = vector.length;
    const rows = matrix.map((row, i) => [...row, vector[i]]);
    for (let i = 0; i < n; i++) {
      let pivot = i;
      for (let r = i + 1; r < n; r++) if (Math.abs(rows[r][i]) > Math.abs(rows[pivot][i])) pivot = r;
      [rows[i], rows[pivot]] = [rows[pivot], rows[i]];
      for (let r = 0; r < n; r++) {
        if (r === i) continue;
        const factor = rows[r][i] / rows[i][i];
        for (let c = i; c <= n; c++) rows[r][c] -= factor * rows[i][c];
      }
    }
    return rows.map((row, i) => row[n] / row[i]);
  }

  // Newton's method on eight numbers: of three biases only differences count, so the last one stays 0.
  function fit(points, weights, start) {
    let theta = start ? [...start] : new Array(9).fill(0);
    const total = COUNTS.reduce((sum, count, k) => sum + count * weights[k], 0);
    const share = weights.map((w) => w / total);
    for (let step = 0; step < 60; step++) {
      const gradient = new Array(9).fill(0);
      const hessian = gradient.map(() => new Array(9).fill(0));
      for (const [x, y, k] of points) {
        const p = softmax(logits(theta, x, y));
        const h = [x, y, 1];
        for (let a = 0; a < 3; a++) {
          for (let i = 0; i < 3; i++) {
            gradient[3 * a + i] += share[k] * (p[a] - (a === k)) * h[i];
            for (let b = 0; b < 3; b++)
              for (let j = 0; j < 3; j++)
                hessian[3 * a + i][3 * b + j] += share[k] * p[a] * ((a === b) - p[b]) * h[i] * h[j];
          }
        }
      }
      for (let i = 0; i < 9; i++)
        if (i % 3 !== 2) {
          gradient[i] += DECAY * theta[i];
          hessian[i][i] += DECAY;
        }
      if (Math.max(...gradient.map(Math.abs)) < 1e-11) break;
      const move = [...solve(hessian.slice(0, 8).map((row) => row.slice(0, 8)), gradient.slice(0, 8)), 0];
      const before = objective(points, share, theta);
      let length = 1;
      while (length > 1e-6 && objective(points, share, theta.map((t, i) => t - length * move[i])) > before) length /= 2;
      theta = theta.map((t, i) => t - length * move[i]);
    }
    return theta;
  }

  // P[k][j] is the mean probability of class j over the samples of class k.
  function meanConfusion(points, theta) {
    const P = [0, 1, 2].map(() => [0, 0, 0]);
    for (const [x, y, k] of points) softmax(logits(theta, x, y)).forEach((p, j) => (P[k][j] += p / COUNTS[k]));
    return P;
  }

  // a P = a: the stationary distribution of P over the counts, with a mean of 1 over the samples.
  function impliedWeights(P) {
    const A = [
      [P[0][0] - 1, P[1][0], P[2][0]],
      [P[0][1], P[1][1] - 1, P[2][1]],
      [1, 1, 1],
    ];
    const a = solve(A, [0, 0, 1]);
    const n = COUNTS.reduce((sum, count) => sum + count);
    return a.map((share, k) => (share * n) / COUNTS[k]);
  }

  function recalls(points, theta) {
    const right = [0, 0, 0];
    for (const [x, y, k] of points) {
      const z = logits(theta, x, y);
      if (z[k] === Math.max(...z)) right[k]++;
    }
    return right.map((number, k) => number / COUNTS[k]);
  }

  // The part of the box where class k has the largest logit: the box, cut along a line for each other class.
  function region(theta, k) {
    let corners = [[BOX[0], BOX[2]], [BOX[1], BOX[2]], [BOX[1], BOX[3]], [BOX[0], BOX[3]]];
    for (let j = 0; j < 3; j++) {
      if (j === k) continue;
      const side = ([x, y]) => logits(theta, x, y)[k] - logits(theta, x, y)[j];
      const kept = [];
      corners.forEach((corner, i) => {
        const next = corners[(i + 1) % corners.length];
        const [here, there] = [side(corner), side(next)];
        if (here >= 0) kept.push(corner);
        if (here >= 0 !== there >= 0) {
          const t = here / (here - there);
          kept.push([corner[0] + t * (next[0] - corner[0]), corner[1] + t * (next[1] - corner[1])]);
        }
      });
      corners = kept;
    }
    return corners;
  }

  const SVG = "http://www.w3.org/2000/svg";
  function make(tag, attributes, ...children) {
    const element = ["svg", "polygon", "circle", "g"].includes(tag)
      ? document.createElementNS(SVG, tag)
      : document.createElement(tag);
    for (const [key, value] of Object.entries(attributes || {})) element.setAttribute(key, value);
    element.append(...children);
    return element;
  }

  function show(root) {
    const state = { weights: [1, 1, 1], spread: 0.8, theta: null };
    let points = sample(state.spread);
    const at = ([x, y]) => [100 * x, -100 * y];

    const regions = NAMES.map((_, k) => make("polygon", { class: `region k${k}` }));
    const dots = make("g");
    const plot = make("svg", {
      viewBox: `${100 * BOX[0]} ${-100 * BOX[3]} ${100 * (BOX[1] - BOX[0])} ${100 * (BOX[3] - BOX[2])}`,
      role: "img",
      "aria-label": "Samples of three classes, and the region that the model gives to each",
    }, ...regions, dots);

    const sliders = NAMES.map((name, k) =>
      make("input", { type: "range", min: -1.5, max: 1.5, step: 0.02, value: 0, "aria-label": `Weight of class ${name}` }));
    const weightCells = NAMES.map(() => make("output"));
    const spread = make("input", { type: "range", min: 0.4, max: 1.4, step: 0.02, value: state.spread, "aria-label": "Spread of the classes" });
    const spreadCell = make("output");
    const row = (label, input, output) => make("label", { class: "row" }, make("span", {}, label), input, output);
    const button = (text, power) => {
      const one = make("button", { type: "button", class: "choice" }, text);
      one.addEventListener("click", () => {
        const raw = COUNTS.map((count) => Math.log10(count ** -power));
        const mean = raw.reduce((sum, value) => sum + value) / 3;
        sliders.forEach((slider, k) => (slider.value = raw[k] - mean));
        update();
      });
      return one;
    };

    const cells = NAMES.map(() => NAMES.map(() => make("td")));
    const implied = NAMES.map(() => make("td"));
    const stated = NAMES.map(() => make("td"));
    const recall = NAMES.map(() => make("td"));
    const head = (first, names) => make("tr", {}, make("th", {}, first), ...names.map((name) => make("th", {}, name)));
    const line = (name, tds) => make("tr", {}, make("th", {}, name), ...tds);
    const confusion = make("table", { class: "numbers" },
      make("caption", {}, "P: mean probability of each class, over the samples of the class in front"),
      head("", NAMES), ...cells.map((tds, k) => line(NAMES[k], tds)));
    const balance = make("table", { class: "numbers" },
      make("caption", {}, "What the law says"),
      head("", NAMES), line("weight", stated), line("implied by P", implied), line("recall", recall));
    const said = make("p", { class: "said", "aria-live": "polite" });

    root.replaceChildren(
      make("div", { class: "left" }, plot),
      make("div", { class: "right" },
        ...sliders.map((slider, k) => row(make("span", { class: `name k${k}` }, `${NAMES[k]}, ${COUNTS[k]} samples`), slider, weightCells[k])),
        row("Spread", spread, spreadCell),
        make("div", { class: "buttons" }, button("no weights", 0), button("square root", 0.5), button("inverse", 1))),
      make("div", { class: "tables" }, confusion, balance), said);

    function update() {
      state.weights = sliders.map((slider) => 10 ** Number(slider.value));
      if (Number(spread.value) !== state.spread) {
        state.spread = Number(spread.value);
        points = sample(state.spread);
        state.theta = null;
        dots.replaceChildren();
      }
      if (!dots.childNodes.length)
        dots.append(...points.map(([x, y, k]) => {
          const [cx, cy] = at([x, y]);
          return make("circle", { cx, cy, r: 4.5, class: `dot k${k}` });
        }));
      const theta = (state.theta = fit(points, state.weights, state.theta));
      regions.forEach((one, k) => one.setAttribute("points", region(theta, k).map((corner) => at(corner).join(",")).join(" ")));
      const P = (state.P = meanConfusion(points, theta));
      state.implied = impliedWeights(P);
      state.recall = recalls(points, theta);
      const mean = COUNTS.reduce((sum, count, k) => sum + count * state.weights[k], 0) / points.length;
      state.stated = state.weights.map((w) => w / mean);
      sliders.forEach((slider, k) => {
        weightCells[k].textContent = state.weights[k].toPrecision(2);
        slider.setAttribute("aria-valuetext", state.weights[k].toPrecision(2));
        stated[k].textContent = state.stated[k].toFixed(3);
        implied[k].textContent = state.implied[k].toFixed(3);
        recall[k].textContent = `${(100 * state.recall[k]).toFixed(0)}%`;
        cells[k].forEach((cell, j) => {
          cell.textContent = P[k][j].toFixed(3);
          cell.style.setProperty("--share", `${(100 * P[k][j]).toFixed(0)}%`);
          cell.className = `share k${j}`;
        });
      });
      spreadCell.textContent = state.spread.toFixed(2);
      const balanced = state.recall.reduce((sum, value) => sum + value) / 3;
      said.textContent = `Balanced accuracy ${(100 * balanced).toFixed(0)}%. The weights that P implies are the weights that you set.`;
    }
    [...sliders, spread].forEach((slider) => slider.addEventListener("input", update));
    update();
    return { state, points: () => points, logits: () => points.map(([x, y]) => logits(state.theta, x, y)) };
  }

  return { show, shown: null };
})();

{
  const root = document.getElementById("playground");
  if (root) playground.shown = playground.show(root);
}
