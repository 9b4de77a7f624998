"use strict";
// Numbers of the explorer: rows out of their packing, decisions under a shift of the scores, and what these are worth.
const explorerNumbers = (() => {
  async function unpack(model, size, several) {
    const bytes = Uint8Array.from(atob(model.words), (sign) => sign.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    const plain = new Uint8Array(await new Response(stream).arrayBuffer());
    const half = plain.length / 2, words = new Uint16Array(half);
    for (let i = 0; i < half; i++) words[i] = plain[i] | (plain[half + i] << 8);
    const n = model.kept.reduce((sum, one) => sum + one, 0), m = model.choices, sparse = m < size && !several;
    let at = 0;
    const take = (length) => words.subarray(at, (at += length));
    const rows = { n, m, size, target: take(n) }, zero = several ? 32768 : 0;  // of several outputs: above 0, not below the largest
    rows.below = Float64Array.from(take(n * m), (steps) => model.scale * Math.sinh(model.unit * (steps - zero)));
    rows.index = sparse ? take(n * m) : null;
    rows.truth = several ? take(n * size) : null;
    rows.kept = model.kept;
    rows.weight = model.kept.map((kept, k) => (kept ? model.held_out[k] / kept : 0));
    return rows;
  }

  // The class of the largest score of each row, the first of several; the same as argmax(scores + shift).
  function decide(rows, shift, decided) {
    const { n, m, below, index } = rows;
    for (let i = 0, p = 0; i < n; i++) {
      let at = index ? index[p] : 0, best = shift[at] - below[p++];
      for (let c = 1; c < m; c++, p++) {
        const k = index ? index[p] : c, score = shift[k] - below[p];
        if (score > best || (score === best && k < at)) { best = score; at = k; }
      }
      decided[i] = at;
    }
    return decided;
  }

  // What decisions are worth where classes are as frequent as `prior` says, and a missed class k costs cost[k].
  function worth(rows, decided, prior, cost) {
    const { n, size, target, kept } = rows, right = new Float64Array(size), told = new Float64Array(size);
    for (let i = 0; i < n; i++) {
      const k = target[i];
      told[decided[i]] += prior[k] / kept[k];
      if (decided[i] === k) right[k]++;
    }
    const recall = new Float64Array(size), precision = new Float64Array(size), f1 = new Float64Array(size);
    let there = 0, balanced = 0, accuracy = 0, macro = 0, mean = 0;
    for (let k = 0; k < size; k++) {
      recall[k] = right[k] / kept[k];
      precision[k] = (prior[k] * recall[k]) / told[k];
      f1[k] = (2 * prior[k] * recall[k]) / (prior[k] + told[k]);
      if (!kept[k]) { recall[k] = precision[k] = f1[k] = NaN; continue; }
      if (prior[k] === 0) f1[k] = 0;
      there++;
      balanced += recall[k];
      accuracy += prior[k] * recall[k];
      macro += f1[k];
      mean += prior[k] * cost[k] * (1 - recall[k]);
    }
    return { recall, precision, f1, told, balanced: balanced / there, accuracy, macro: macro / there, cost: mean };
  }

  // Share of the rows of each class that were decided for each class: (K, K), by row.
  function confusion(rows, decided) {
    const table = new Float32Array(rows.size * rows.size);
    for (let i = 0; i < rows.n; i++) table[rows.target[i] * rows.size + decided[i]] += 1 / rows.kept[rows.target[i]];
    return table;
  }

  // Class frequencies between those of training (0) and equal ones (1), over the classes that have rows.
  function between(train, kept, share) {
    const power = train.map((count, k) => (kept[k] && count ? Math.pow(count, 1 - share) : 0));
    return normal(power);
  }

  function normal(values) {
    const sum = values.reduce((total, value) => total + value, 0);
    return values.map((value) => value / sum);
  }

  // Precision and recall at every threshold of a score, from high to low.
  function precisionRecall(scores, truth, weight) {
    const order = Array.from(scores.keys()).sort((a, b) => scores[b] - scores[a]);
    let all = 0, right = 0, told = 0, average = 0;
    for (let i = 0; i < scores.length; i++) if (truth[i]) all += weight[i];
    const points = [];
    order.forEach((i, place) => {
      told += weight[i];
      if (truth[i]) { right += weight[i]; }
      if (place + 1 < order.length && scores[order[place + 1]] === scores[i]) return;
      const recall = right / all, last = points.length ? points[points.length - 1].recall : 0;
      average += (recall - last) * (right / told);
      points.push({ recall, precision: right / told, threshold: scores[i] });
    });
    return { points, average };
  }

  // What one threshold of a score is worth: `told` where the score is above it.
  function atThreshold(scores, truth, weight, threshold) {
    let all = 0, right = 0, told = 0, total = 0;
    for (let i = 0; i < scores.length; i++) {
      const w = weight[i];
      total += w;
      if (truth[i]) all += w;
      if (scores[i] > threshold) { told += w; if (truth[i]) right += w; }
    }
    return {
      all, right, told, total, recall: right / all, precision: right / told, f1: (2 * right) / (all + told),
      specificity: 1 - (told - right) / (total - all),
    };
  }

  return { unpack, decide, worth, confusion, between, normal, precisionRecall, atThreshold };
})();
