"use strict";
// The explorer of outputs that stand for themselves: a threshold for each, on its curve of precision over recall.
(async () => {
  const { unpack, precisionRecall, atThreshold } = explorerNumbers;
  const { make, drawPrecisionRecall, say, cards, changed, eachFrame, copy, vector, percent } = explorerFigures;
  const get = (id) => document.getElementById(id);
  const data = JSON.parse(get("explorer-data").textContent);
  const size = data.names.length, MOST = 12, loaded = new Map();
  const threshold = new Float64Array(size);
  let touched = false, outputs, weight, selected = data.train.indexOf(Math.min(...data.train));

  async function choose(place) {
    if (!loaded.has(place)) {
      const rows = await unpack(data.models[place], size, true), found = [];
      for (let j = 0; j < size; j++) {
        const scores = new Float64Array(rows.n), truth = new Uint8Array(rows.n);
        for (let i = 0; i < rows.n; i++) {
          scores[i] = rows.below[i * size + j];
          truth[i] = rows.truth[i * size + j];
        }
        found.push({ scores, truth });
      }
      loaded.set(place, { found, weight: Float64Array.from(rows.target, (kind) => rows.weight[kind]) });
    }
    ({ found: outputs, weight } = loaded.get(place));
    update();
  }

  function judged(cuts) {
    const each = outputs.map((one, j) => atThreshold(one.scores, one.truth, weight, cuts[j]));
    const mean = (values) => { const known = values.filter(Number.isFinite); return known.reduce((sum, v) => sum + v, 0) / known.length; };
    const sum = (key) => each.reduce((all, one) => all + one[key], 0);
    return { each, macro: mean(each.map((one) => (one.all ? one.f1 : NaN))), micro: (2 * sum("right")) / (sum("all") + sum("told")),
      balanced: mean(each.flatMap((one) => [one.recall, one.specificity])),
      accuracy: 1 - (sum("told") + sum("all") - 2 * sum("right")) / sum("total") };
  }

  function update() {
    const before = judged(new Float64Array(size)), now = judged(threshold);
    cards(get("x-numbers"), [["macro-F1", "macro"], ["micro-F1", "micro"], ["balanced accuracy", "balanced"], ["accuracy of outputs", "accuracy"]]
      .map(([title, key]) => ({ title, text: percent(now[key]), change: changed(now[key], before[key]) })));
    showOutputs(now, before);
    const one = outputs[selected], { points, average } = precisionRecall(one.scores, one.truth, weight);
    get("x-threshold-title").textContent = `Precision and recall of ${data.names[selected]}`;
    get("x-cut-label").textContent = `Threshold on the probability of ${data.names[selected]}`;
    drawPrecisionRecall(get("x-pr"), points, now.each[selected]);
    get("x-pr").setAttribute("aria-label", `Precision over recall of ${data.names[selected]}; average precision ${percent(average)}`);
    if (document.activeElement !== get("x-cut")) get("x-cut").value = threshold[selected];
    if (document.activeElement !== get("x-cut-number")) get("x-cut-number").value = probability(threshold[selected]);
    showCode();
    if (touched) say(`${data.names[selected]}: recall ${percent(now.each[selected].recall)}, precision ${percent(now.each[selected].precision)}. Macro-F1 ${percent(now.macro)}.`);
  }
  const probability = (logit) => Number((1 / (1 + Math.exp(-logit))).toPrecision(4));

  const entries = new Map();
  function entry(j) {
    if (entries.has(j)) return entries.get(j);
    const name = data.names[j];
    const pick = make("button", { type: "button", title: "Show its curve" }, name);
    const range = make("input", { type: "range", min: -10, max: 10, step: 0.01, "aria-label": `Threshold of ${name}` });
    const exact = make("input", { type: "number", min: 0, max: 1, step: "any", "aria-label": `Threshold of ${name}, as a probability` });
    const recall = make("span"), was = make("small"), bar = make("i"), tick = make("b"), precision = make("span"), f1 = make("span");
    const value = (label, ...inside) => make("span", { class: "x-value" }, make("span", { class: "x-label" }, label), ...inside);
    const positives = make("small");
    const item = make("li", { class: "x-row" }, make("span", { class: "x-name" }, pick, positives),
      make("span", { class: "x-pair x-shift" }, range, exact),
      value("recall", recall, was, make("div", { class: "x-bar" }, bar, tick)), value("precision", precision), value("F1", f1));
    pick.addEventListener("click", () => { selected = j; ask(); });
    range.addEventListener("input", () => set(j, Number(range.value)));
    exact.addEventListener("input", () => { const p = Number(exact.value); if (p > 0 && p < 1) set(j, Math.log(p / (1 - p))); });
    const show = (now, before) => {
      pick.setAttribute("aria-pressed", `${selected === j}`);
      positives.textContent = `${data.train[j].toLocaleString("en")} in training`;
      if (document.activeElement !== range) range.value = threshold[j];
      if (document.activeElement !== exact) exact.value = probability(threshold[j]);
      recall.textContent = percent(now.recall);
      const moved = 100 * (now.recall - before.recall);
      was.textContent = Math.abs(moved) >= 0.05 ? `${moved > 0 ? "+" : "−"}${Math.abs(moved).toFixed(1)}` : "";
      bar.style.width = `${100 * (now.recall || 0)}%`;
      tick.style.left = `${100 * (before.recall || 0)}%`;
      precision.textContent = percent(now.precision);
      f1.textContent = percent(now.f1);
    };
    entries.set(j, { item, show });
    return entries.get(j);
  }
  function set(j, cut) {
    threshold[j] = cut;
    selected = j;
    ask();
  }

  function showOutputs(now, before) {
    const list = get("x-classes"), held = list.contains(document.activeElement) && list.children.length;
    if (!held) {
      const wanted = get("x-search").value.trim().toLowerCase(), all = data.names.map((_, j) => j);
      const found = wanted ? all.filter((j) => data.names[j].toLowerCase().includes(wanted)) : all;
      const key = { rare: (j) => data.train[j], frequent: (j) => -data.train[j], low: (j) => now.each[j].recall,
        moved: (j) => -Math.abs(now.each[j].recall - before.each[j].recall) }[get("x-order").value];
      list.shown = size <= MOST ? all : found.sort((a, b) => key(a) - key(b)).slice(0, MOST);
      list.replaceChildren(...list.shown.map((j) => entry(j).item));
      get("x-found").textContent = `${list.shown.length} of ${size} outputs`;
    }
    for (const j of list.shown) entry(j).show(now.each[j], before.each[j]);
  }

  function showCode() {
    const names = `# outputs: ${size > 40 ? `${size}, in the order of the page's data` : data.keys.map((key, j) => (key === null ? j : JSON.stringify(key))).join(", ")}\n`;
    get("x-code").textContent = {
      torch: `${names}decided = logits > torch.tensor(${vector(threshold)})`,
      sklearn: `${names}probabilities = model.predict_proba(X)  # of one-vs-rest: a column an output\ndecided = probabilities > np.array(${vector(threshold.map(probability))})`,
      xgboost: `${names}decided = model.predict(X, output_margin=True) > np.array(${vector(threshold)})`,
    }[get("x-library").value];
  }

  const later = eachFrame(update);
  const ask = () => { touched = true; later(); };
  get("x-cut").addEventListener("input", () => set(selected, Number(get("x-cut").value)));
  get("x-cut-number").addEventListener("input", () => {
    const p = Number(get("x-cut-number").value);
    if (p > 0 && p < 1) set(selected, Math.log(p / (1 - p)));
  });
  get("x-model").addEventListener("change", () => choose(Number(get("x-model").value)));
  get("x-search").addEventListener("input", ask);
  get("x-order").addEventListener("change", ask);
  get("x-library").addEventListener("change", showCode);
  get("x-copy").addEventListener("click", () => copy(get("x-code"), get("x-copy")));
  get("x-reset").addEventListener("click", () => { threshold.fill(0); ask(); });
  addEventListener("resize", later);
  get("explorer").classList.add("x-several");
  get("x-search-box").hidden = size <= MOST;
  get("x-body").hidden = false;
  await choose(0);
  get("explorer").dataset.ready = "yes";
})();
