"use strict";
// The explorer of classes: shifts, exponent, frequencies and costs on one side, what they do on the other.
(async () => {
  const { unpack, decide, worth, confusion, between, normal, precisionRecall } = explorerNumbers;
  const { make, axes, line, ticks, drawPrecisionRecall, say, cards, changed, eachFrame, copy, number, vector, percent } =
    explorerFigures;
  const get = (id) => document.getElementById(id);
  const data = JSON.parse(get("explorer-data").textContent);
  const size = data.names.length, MOST = 12, LOW = -1, HIGH = 2;
  const total = data.train.reduce((sum, count) => sum + count, 0);
  const logWeight = data.train.map((count) => Math.log(total / (size * Math.max(count, 1))));
  const rarest = data.train.indexOf(Math.min(...data.train));
  const loaded = new Map(), shift = new Float64Array(size), own = new Float64Array(size), cost = new Float64Array(size).fill(1);
  let touched = false, model, rows, decided, asTrained, before, now, exponent = 0, curve = null, pr = null;

  const frequencies = () =>
    get("x-prior").value === "held"
      ? normal(model.held_out.map((count, k) => (rows.kept[k] ? count : 0)))
      : between(data.train, rows.kept, Number(get("x-share").value));

  async function choose(place) {
    model = data.models[place];
    if (!loaded.has(place)) loaded.set(place, await unpack(model, size, false));
    rows = loaded.get(place);
    decided = new Uint16Array(rows.n);
    asTrained = decide(rows, new Float64Array(size), new Uint16Array(rows.n));
    const cheapest = get("x-cheapest");
    cheapest.disabled = !model.undo;
    get("x-cheapest-hint").textContent = model.undo
      ? "sets the shifts to the decision of least expected cost"
      : "The logits of this loss are no log-probabilities plus a vector, so that no shifts decide by costs.";
    get("x-exponent-hint").textContent = model.exponent === 0
      ? "0 as trained, 1 inverse to the class counts"
      : "on top of what the weights in training did; 0 as trained";
    pr = size === 2 ? twoClasses() : null;
    curve = null;
    update();
  }

  // The two-class problem of a threshold: margins of the rarer class.
  function twoClasses() {
    const scores = new Float64Array(rows.n), truth = new Uint8Array(rows.n), weight = new Float64Array(rows.n);
    for (let i = 0; i < rows.n; i++) {
      scores[i] = rows.below[2 * i + 1 - rarest] - rows.below[2 * i + rarest];
      truth[i] = rows.target[i] === rarest;
      weight[i] = rows.weight[rows.target[i]];
    }
    return { scores, truth, weight };
  }

  function update() {
    const prior = frequencies();
    for (let k = 0; k < size; k++) shift[k] = exponent * logWeight[k] + own[k];
    before = worth(rows, asTrained, prior, cost);
    now = worth(rows, decide(rows, shift, decided), prior, cost);
    get("x-share-out").textContent = get("x-prior").value === "held" ? "not in use"
      : `${percent(prior[rarest])} ${size > 2 ? "rarest" : data.names[rarest]}`;
    showNumbers();
    showClasses();
    showConfusion();
    if (pr) showThreshold(prior);
    showCurve(prior);
    showCode();
    if (touched) say(`Balanced accuracy ${percent(now.balanced)}, accuracy ${percent(now.accuracy)}, macro-F1 ${percent(now.macro)}, ` +
      `mean cost ${now.cost.toPrecision(3)}.`);
  }

  function showNumbers() {
    const gain = now.cost - before.cost;
    cards(get("x-numbers"), [
      { title: "balanced accuracy", text: percent(now.balanced), change: changed(now.balanced, before.balanced) },
      { title: "accuracy", text: percent(now.accuracy), change: changed(now.accuracy, before.accuracy) },
      { title: "macro-F1", text: percent(now.macro), change: changed(now.macro, before.macro) },
      { title: "mean cost of a row", text: now.cost.toPrecision(3), change: Math.abs(gain) < 5e-4 * before.cost
        ? { text: "as trained", better: 0 }
        : { text: `${gain > 0 ? "+" : "−"}${Math.abs(gain).toPrecision(2)}`, better: -Math.sign(gain) } },
    ]);
  }

  // --- classes ---
  const entries = new Map();

  function entry(k) {
    if (entries.has(k)) return entries.get(k);
    const name = data.names[k];
    const range = make("input", { type: "range", min: -6, max: 6, step: 0.01, "aria-label": `Shift of ${name}` });
    const exact = make("input", { type: "number", step: 0.01, "aria-label": `Shift of ${name}, as a number` });
    const price = make("input", { type: "number", min: 0, step: "any", "aria-label": `Cost of missing ${name}` });
    const times = make("span", { class: "x-times", title: "times as much weight" });
    const recall = make("span"), was = make("small"), bar = make("i"), tick = make("b"), precision = make("span");
    const item = make("li", { class: "x-row" },
      make("span", { class: "x-name" }, name, make("small", {}, `${data.train[k].toLocaleString("en")} in training, ${model.held_out[k].toLocaleString("en")} held out`)),
      make("span", { class: "x-pair x-shift" }, range, exact, times),
      make("span", {}, make("span", { class: "x-label" }, "cost of a miss"), price),
      make("span", { class: "x-value" }, make("span", { class: "x-label" }, "recall"), recall, was, make("div", { class: "x-bar" }, bar, tick)),
      make("span", { class: "x-value" }, make("span", { class: "x-label" }, "precision"), precision));
    for (const input of [range, exact]) {
      input.addEventListener("input", () => {
        const wanted = Number(input.value);
        if (input.value === "" || !Number.isFinite(wanted)) return;
        own[k] = wanted - exponent * logWeight[k];
        curve = null;
        ask();
      });
    }
    price.addEventListener("input", () => {
      const wanted = Number(price.value);
      if (price.value === "" || !(wanted >= 0)) return;
      cost[k] = wanted;
      ask();
    });
    const show = () => {
      if (document.activeElement !== range) range.value = shift[k];
      if (document.activeElement !== exact) exact.value = Number.isFinite(shift[k]) ? Number(shift[k].toFixed(3)) : "";
      if (document.activeElement !== price) price.value = cost[k];
      const factor = Math.exp(shift[k]);
      times.textContent = `× ${factor >= 1e4 || (factor < 1e-2 && factor > 0) ? factor.toExponential(0) : Number(factor.toPrecision(3))}`;
      recall.textContent = percent(now.recall[k]);
      const moved = 100 * (now.recall[k] - before.recall[k]);
      was.textContent = Math.abs(moved) >= 0.05 ? `${moved > 0 ? "+" : "−"}${Math.abs(moved).toFixed(1)}` : "";
      bar.style.width = `${100 * (now.recall[k] || 0)}%`;
      tick.style.left = `${100 * (before.recall[k] || 0)}%`;
      precision.textContent = percent(now.precision[k]);
    };
    entries.set(k, { item, show });
    return entries.get(k);
  }

  function chosenClasses() {
    const all = data.names.map((_, k) => k);
    if (size <= MOST) return all;
    const wanted = get("x-search").value.trim().toLowerCase();
    const found = wanted ? all.filter((k) => data.names[k].toLowerCase().includes(wanted)) : all;
    const key = {
      rare: (k) => data.train[k], frequent: (k) => -data.train[k],
      low: (k) => (Number.isFinite(now.recall[k]) ? now.recall[k] : 2),
      moved: (k) => -Math.abs(now.recall[k] - before.recall[k] || 0),
    }[get("x-order").value];
    const shown = found.sort((a, b) => key(a) - key(b)).slice(0, MOST);
    get("x-found").textContent = `${shown.length} of ${size} classes`;
    return shown;
  }

  function showClasses() {
    const list = get("x-classes"), items = [];
    const held = list.contains(document.activeElement) && list.children.length;
    for (const k of held ? list.shown : (list.shown = chosenClasses())) {
      const one = entry(k);
      one.show();
      items.push(one.item);
    }
    if (!held) list.replaceChildren(...items);  // what is under the hand stays where it is
  }

  // --- confusion ---
  function showConfusion() {
    const table = confusion(rows, decided), pairs = [];
    for (let k = 0; k < size; k++) {
      for (let j = 0; j < size; j++) if (j !== k && table[k * size + j] > 0) pairs.push(k * size + j);
    }
    const most = size > 100 ? pairs.filter((at) => table[at] * rows.kept[Math.floor(at / size)] > 1.5) : pairs;
    most.sort((a, b) => table[b] - table[a]);
    get("x-pairs").replaceChildren(...most.slice(0, 6).map((at) =>
      make("li", {}, `${data.names[Math.floor(at / size)]} → ${data.names[at % size]}: ${percent(table[at])}`)));
    const shade = (value) => Math.round(46 * Math.sqrt(value));
    if (size > MOST) return paint(table);
    const head = make("tr", {}, make("td", {}, "true ↓ decided →"), ...data.names.map((name) => make("th", { scope: "col", title: name }, name)));
    const body = data.names.map((name, k) => make("tr", {}, make("th", { scope: "row", title: name }, name),
      ...data.names.map((_, j) => {
        const cell = make("td", k === j ? { class: "x-own" } : {}, rows.kept[k] ? (100 * table[k * size + j]).toFixed(size > 6 ? 0 : 1) : "–");
        cell.style.background = `color-mix(in srgb, var(--${k === j ? "c0" : "c1"}) ${shade(table[k * size + j])}%, var(--ground))`;
        return cell;
      })));
    get("x-matrix").replaceChildren(make("table", { class: size > 6 ? "x-small" : "" }, make("thead", {}, head), make("tbody", {}, ...body)));
  }

  let canvas = null, tones = null;
  const cells = Math.min(size, 100);  // neighbours in frequency share a cell, which shows the largest of theirs
  function paint(table) {
    if (!canvas) {
      canvas = make("canvas", { width: cells, height: cells, role: "img", "aria-label": "Confusion matrix, classes from frequent to rare; the list below names the largest entries" });
      const told = make("p", { class: "x-hint" }, `Rows are true classes, columns decisions, both from frequent to rare.${cells < size ? " A cell shows the largest number of several classes." : ""} Point at a cell to read it.`);
      canvas.addEventListener("pointermove", (event) => {
        const box = canvas.getBoundingClientRect(), place = (at, length) => Math.min(cells - 1, Math.max(0, Math.floor((at / length) * cells)));
        const at = canvas.largest[place(event.clientY - box.top, box.height) * cells + place(event.clientX - box.left, box.width)];
        told.textContent = `${data.names[Math.floor(at / size)]} → ${data.names[at % size]}: ${percent(canvas.table[at])}`;
      });
      get("x-matrix").replaceChildren(canvas, told);
    }
    canvas.table = table;
    canvas.largest = new Uint32Array(cells * cells);
    const highest = new Float32Array(cells * cells).fill(-1), block = order.map((_, rank) => Math.floor((rank * cells) / size));
    for (let row = 0; row < size; row++) {
      for (let column = 0; column < size; column++) {
        const at = order[row] * size + order[column], cell = block[row] * cells + block[column];
        if (table[at] > highest[cell]) { highest[cell] = table[at]; canvas.largest[cell] = at; }
      }
    }
    const drawing = canvas.getContext("2d"), image = drawing.createImageData(cells, cells);
    const [same, other, ground] = (tones ||= ["--c0", "--c1", "--ground"].map(colour));
    for (let cell = 0; cell < cells * cells; cell++) {
      const share = Math.sqrt(highest[cell]), full = cell % (cells + 1) === 0 ? same : other;
      for (let c = 0; c < 3; c++) image.data[4 * cell + c] = ground[c] + share * (full[c] - ground[c]);
      image.data[4 * cell + 3] = 255;
    }
    drawing.putImageData(image, 0, 0);
  }
  const order = data.names.map((_, k) => k).sort((a, b) => data.train[b] - data.train[a]);
  function colour(name) {  // the numbers of a colour of the page, in the theme that is on
    const probe = make("span");
    probe.style.color = `var(${name})`;
    get("explorer").append(probe);
    const found = getComputedStyle(probe).color.match(/[\d.]+/g).slice(0, 3).map(Number);
    probe.remove();
    return found;
  }

  // --- the curve over the exponent ---
  let resting = 0;
  function showCurve(prior) {
    const svg = get("x-curve");
    if (!curve) {
      svg.classList.add("x-stale");
      clearTimeout(resting);
      resting = setTimeout(() => { curve = alongExponent(); showCurve(frequencies()); }, svg.childNodes.length ? 150 : 0);
      return;
    }
    svg.classList.remove("x-stale");
    const accuracy = (recall) => recall.reduce((sum, value, k) => sum + (prior[k] && prior[k] * value), 0);
    const points = curve.map((one) => ({ ...one, accuracy: accuracy(one.recall) }));
    const held = get("x-prior").value === "held";
    const marks = data.marks.map((mark, i) => ({ ...mark, number: i + 1,
      at: mark.base === model.base && mark.exponent !== null && model.exponent !== null ? mark.exponent - model.exponent : null }))
      .filter((mark) => mark.at !== null && mark.at >= LOW - 1e-9 && mark.at <= HIGH + 1e-9);
    const ends = marks.flatMap((mark) => [...mark.balanced_accuracy, ...(held && mark.accuracy ? mark.accuracy : [])]);
    const yTicks = ticks([...points.map((one) => one.balanced), ...points.map((one) => one.accuracy), ...ends.filter((v) => v !== null)]);
    const { px, py, group, value } = axes(svg, { x: [LOW, HIGH], y: [yTicks[0], yTicks[yTicks.length - 1]],
      xTicks: [-1, -0.5, 0, 0.5, 1, 1.5, 2], yTicks, xTitle: "exponent of the class weights" });
    svg.onclick = (event) => setExponent(Math.min(HIGH, Math.max(LOW, Math.round(100 * value(event)) / 100)));
    group.append(line(points.map((one) => [px(one.at), py(one.accuracy)]), "var(--c1)", "6 4"));
    group.append(line(points.map((one) => [px(one.at), py(one.balanced)]), "var(--c0)"));
    const clamped = Math.min(HIGH, Math.max(LOW, exponent));
    group.append(make("line", { x1: px(clamped), x2: px(clamped), y1: py(yTicks[0]), y2: py(yTicks[yTicks.length - 1]), stroke: "var(--ink)", "stroke-dasharray": "2 3" }));
    for (const mark of marks) {
      for (const [estimate, tone, aside] of [[held ? mark.accuracy : null, "var(--c1)", 4], [mark.balanced_accuracy, "var(--c0)", -4]]) {
        if (!estimate) continue;
        const [middle, low, high] = estimate, x = px(mark.at) + aside;
        const text = `${mark.label}: ${percent(middle)}${low === null ? "" : ` (${percent(low)} to ${percent(high)})`}`;
        const drawn = make("g", {}, make("title", {}, text));
        if (low !== null) drawn.append(make("line", { x1: x, x2: x, y1: py(low), y2: py(high), stroke: tone, "stroke-width": 2 }));
        drawn.append(make("rect", { x: x - 4, y: py(middle) - 4, width: 8, height: 8, fill: "var(--ground)", stroke: tone, "stroke-width": 2, transform: `rotate(45 ${x} ${py(middle)})` }));
        if (aside < 0) drawn.append(make("text", { x: x - 9, y: py(middle) + 4, "text-anchor": "end" }, `${mark.number}`));
        group.append(drawn);
      }
    }
    for (const [here, tone] of [[now.accuracy, "var(--c1)"], [now.balanced, "var(--c0)"]]) {
      group.append(make("circle", { cx: px(clamped), cy: py(here), r: 5.5, fill: tone, stroke: "var(--ground)", "stroke-width": 2 }));
    }
    const key = make("li", { class: "x-key" });
    key.style.listStyle = "none";
    key.style.marginLeft = "-1.4rem";
    for (const [name, tone, sign] of [["balanced accuracy", "c0", "━"], ["accuracy", "c1", "┅"]]) {
      const dot = make("span", { "aria-hidden": "true" }, `${sign} `);
      dot.style.color = `var(--${tone})`;
      key.append(dot, `${name}   `);
    }
    get("x-marks").replaceChildren(key, ...data.marks.map((mark, i) => {
      const [middle, low, high] = mark.balanced_accuracy, there = marks.some((one) => one.number === i + 1);
      const text = `${percent(middle)}${low === null ? "" : ` (${percent(low)} to ${percent(high)})`}`;
      return make("li", { value: i + 1 }, mark.label, make("span", { class: "soft" }, ` balanced accuracy ${text}${there ? "" : ", not on this axis"}`));
    }));
  }

  function alongExponent() {
    const found = [], other = new Uint16Array(rows.n), moved = new Float64Array(size), prior = frequencies();
    for (let at = LOW; at <= HIGH + 1e-9; at += 0.1) {
      for (let k = 0; k < size; k++) moved[k] = at * logWeight[k] + own[k];
      const one = worth(rows, decide(rows, moved, other), prior, cost);
      found.push({ at, recall: one.recall, balanced: one.balanced });
    }
    return found;
  }

  // --- two classes ---
  function showThreshold(prior) {
    const weight = pr.weight.map((_, i) => prior[rows.target[i]] / rows.kept[rows.target[i]]);
    const cut = shift[1 - rarest] - shift[rarest], name = data.names[rarest];
    get("x-threshold").hidden = false;
    get("x-threshold-title").textContent = `Precision and recall of ${name}`;
    get("x-cut-label").textContent = `Least probability to decide for ${name}`;
    const { points, average } = precisionRecall(pr.scores, pr.truth, weight);
    drawPrecisionRecall(get("x-pr"), points, { recall: now.recall[rarest], precision: now.precision[rarest] });
    get("x-pr").setAttribute("aria-label", `Precision over recall of ${name}; average precision ${percent(average)}`);
    if (document.activeElement !== get("x-cut")) get("x-cut").value = cut;
    if (document.activeElement !== get("x-cut-number")) get("x-cut-number").value = Number((1 / (1 + Math.exp(-cut))).toPrecision(4));
  }
  function setCut(cut) {
    if (!Number.isFinite(cut)) return;
    own[rarest] = -cut / 2 - exponent * logWeight[rarest];
    own[1 - rarest] = cut / 2 - exponent * logWeight[1 - rarest];
    curve = null;
    ask();
  }

  // --- code ---
  function showCode() {
    const finite = Array.from(shift).filter(Number.isFinite), mean = finite.reduce((sum, value) => sum + value, 0) / finite.length;
    const added = Array.from(shift, (value) => value - mean), raw = added.map(Math.exp), scale = size / raw.reduce((sum, value) => sum + value, 0);
    const weights = raw.map((value) => value * scale), keys = data.keys.map((key, k) => (key === null ? `${k}` : JSON.stringify(key)));
    const names = `# classes: ${size > 40 ? `${size}, in the order of the page's data` : keys.join(", ")}\n`;
    const again = "# train again with these; the outcome is not that of the shift\n";
    get("x-code").textContent = {
      torch: `${names}shift = torch.tensor(${vector(added)})\ndecided = (logits + shift).argmax(1)`,
      "torch-weights": `${names}${again}loss = torch.nn.CrossEntropyLoss(weight=torch.tensor(${vector(weights)}))`,
      "sklearn-shift": `${names}shift = np.array(${vector(added).replaceAll('float("-inf")', "-np.inf")})\ndecided = model.classes_[(np.log(model.predict_proba(X)) + shift).argmax(1)]`,
      sklearn: `${again}model = LogisticRegression(class_weight={${keys.map((key, k) => `${key}: ${number(weights[k])}`).join(", ")}})`,
      xgboost: size === 2
        ? `${names}margin = model.predict(X, output_margin=True)\ndecided = (margin + ${number(added[1] - added[0])} > 0).astype(int)`
        : `${names}shift = np.array(${vector(added).replaceAll('float("-inf")', "-np.inf")})\nmargin = model.predict(X, output_margin=True)\ndecided = (margin + shift).argmax(1)`,
      "xgboost-weights": `${names}${again}model.fit(X, y, sample_weight=np.array(${vector(weights)})[y])`,
    }[get("x-library").value];
  }

  // --- hands ---
  const later = eachFrame(update);
  const ask = () => { touched = true; later(); };
  const setExponent = (wanted, from) => {
    if (!Number.isFinite(wanted)) return;
    exponent = wanted;
    for (const id of ["x-exponent", "x-exponent-number"]) if (id !== from) get(id).value = wanted;
    ask();
  };
  for (const id of ["x-exponent", "x-exponent-number"]) {
    get(id).addEventListener("input", () => { if (get(id).value !== "") setExponent(Number(get(id).value), id); });
  }
  get("x-share").addEventListener("input", () => { get("x-prior").value = "between"; ask(); });
  get("x-prior").addEventListener("change", ask);
  get("x-cut").addEventListener("input", () => setCut(Number(get("x-cut").value)));
  get("x-cut-number").addEventListener("input", () => {
    const p = Number(get("x-cut-number").value);
    if (p > 0 && p < 1) setCut(Math.log(p / (1 - p)));
  });
  get("x-model").addEventListener("change", () => choose(Number(get("x-model").value)));
  get("x-search").addEventListener("input", ask);
  get("x-order").addEventListener("change", ask);
  get("x-library").addEventListener("change", showCode);
  get("x-copy").addEventListener("click", () => copy(get("x-code"), get("x-copy")));
  get("x-cheapest").addEventListener("click", () => {  // log of the posterior there, times the cost of a miss
    const prior = frequencies(), trained = between(data.train, rows.kept, 0);
    setExponent(0);
    for (let k = 0; k < size; k++) own[k] = model.undo[k] + (prior[k] ? Math.log(prior[k] / trained[k]) : 0) + Math.log(cost[k]);
    curve = null;
    ask();
  });
  get("x-reset").addEventListener("click", () => {
    own.fill(0);
    cost.fill(1);
    get("x-prior").value = "held";
    get("x-share").value = 0;
    curve = null;
    setExponent(0);
  });
  const advised = get("x-advised");
  if (advised) advised.addEventListener("click", () => {
    setExponent(0);
    own.set(data.advised);
    curve = null;
    ask();
  });
  addEventListener("resize", later);
  const repaint = () => { tones = null; later(); };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
  new MutationObserver(repaint).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  get("x-search-box").hidden = size <= MOST;
  get("x-body").hidden = false;
  await choose(0);
  document.getElementById("explorer").dataset.ready = "yes";
})();
