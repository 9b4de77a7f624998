// What a page does beyond showing: tables sort, filter and download; a loss can be hidden; a heat map tells its cells;
// a link opens the folded part that it leads to. Without this script every number is still on the page.
"use strict";
(() => {
  const make = (tag, values = {}, ...inside) => {
    const element = Object.assign(document.createElement(tag), values);
    element.append(...inside);
    return element;
  };
  const block = (id) => {
    const found = document.getElementById(id);
    return found && JSON.parse(found.textContent);
  };
  const readText = (cell) => (cell.firstChild ? cell.firstChild.textContent : "").trim();
  const readValue = (cell) => {
    const text = cell.dataset.v ?? readText(cell);
    const plain = text.replace("\u2212", "-");
    return plain !== "" && Number.isFinite(Number(plain)) ? Number(plain) : text;
  };

  function save(name, type, text) {
    const link = make("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  function inert(value) { // no cell is a formula, as in the files that Steelyard writes
    if (typeof value !== "string" || value === "" || /^[-+]?[0-9]+([.][0-9]+)?$/.test(value)) return value;
    const seen = [...value].find((sign) => !/[\s\p{C}]/u.test(sign)) ?? "";
    const starts = "=+-@\u2212".includes(seen.normalize("NFKC").charAt(0) || " ");
    return [...value][0] !== seen || starts ? `'${value}` : value;
  }

  function toCsv(rows) {
    const cell = (value) => {
      const text = value === null || value === undefined ? "" : String(inert(value));
      return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    };
    return rows.map((row) => row.map(cell).join(",") + "\n").join("");
  }

  // ---- tables: all rows and columns are there, whatever is hidden or sorted
  function readTable(table) {
    const heads = [...table.tHead.rows[0].cells];
    const rows = [...table.tBodies[0].rows].map((row) => [...row.cells]);
    const columns = [];
    heads.forEach((head, i) => {
      const name = head.dataset.key ?? head.textContent.trim().replace(/\s+/g, " ");
      columns.push([name, (cells) => { const v = readValue(cells[i]); return v === "–" ? null : v; }]);
      for (const end of ["low", "high"])
        if (rows.some((cells) => cells[i].dataset[end]))
          columns.push([`${name}_${end}`, (cells) => cells[i].dataset[end] ? Number(cells[i].dataset[end]) : null]);
    });
    return { names: columns.map(([name]) => name), rows: rows.map((cells) => columns.map(([, get]) => get(cells))) };
  }

  function sortable(table) {
    const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0], first = [...body.rows];
    heads.forEach((head, i) => {
      const button = make("button", { type: "button" });
      button.append(...[...head.childNodes].filter((part) => part.className !== "interval"));
      head.prepend(button);
      button.addEventListener("click", () => {
        const values = first.map((row) => [row, readValue(row.cells[i])]);
        const known = values.filter(([, v]) => v !== "–" && v !== "");
        const numbers = known.every(([, v]) => typeof v === "number");
        const [one, two] = numbers ? ["descending", "ascending"] : ["ascending", "descending"];
        const now = head.getAttribute("aria-sort"), next = now === one ? two : now === two ? null : one;
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        if (next === null) return body.append(...first);
        head.setAttribute("aria-sort", next);
        const sign = next === "ascending" ? 1 : -1;
        const order = numbers ? (a, b) => a - b : (a, b) => String(a).localeCompare(String(b), "en", { numeric: true });
        known.sort(([, a], [, b]) => sign * order(a, b));
        const rest = values.filter(([, v]) => v === "–" || v === "");  // what is not known stands last
        body.append(...[...known, ...rest].map(([row]) => row));
      });
    });
  }

  function withTools(table) {
    const tools = make("div", { className: "tools" }), name = table.id || "table", rows = [...table.tBodies[0].rows];
    if (rows.length > 12) {
      const texts = rows.map((row) => readText(row.cells[0]).toLowerCase());
      const said = make("output", { textContent: `${rows.length} rows` });
      const input = make("input", { type: "search", autocomplete: "off" });
      input.addEventListener("input", () => {
        const wanted = input.value.trim().toLowerCase();
        let shown = 0;
        rows.forEach((row, i) => { row.hidden = !texts[i].includes(wanted); shown += !row.hidden; });
        said.textContent = wanted ? `${shown} of ${rows.length} rows` : `${rows.length} rows`;
      });
      tools.append(make("label", {}, `Find a ${readText(table.tHead.rows[0].cells[0]).toLowerCase() || "row"} `, input), said);
    }
    const csv = make("button", { type: "button", className: "button", textContent: "CSV" });
    csv.setAttribute("aria-label", `Download the table ${name} as CSV`);
    csv.addEventListener("click", () => {
      const { names, rows: all } = readTable(table);
      save(`${name}.csv`, "text/csv", toCsv([names, ...all]));
    });
    const json = make("button", { type: "button", className: "button", textContent: "JSON" });
    json.setAttribute("aria-label", `Download the table ${name} as JSON`);
    json.addEventListener("click", () => {
      const { names, rows: all } = readTable(table);
      const records = all.map((row) => Object.fromEntries(names.map((key, i) => [key, row[i]])));
      save(`${name}.json`, "application/json", JSON.stringify(records, null, 1) + "\n");
    });
    tools.append(csv, json);
    table.closest(".wide").before(tools);
  }

  // ---- losses: a box for each hides its rows, its columns and its part of the figures
  function hideable(labels) {
    const fieldset = make("fieldset", { className: "losses" }, make("legend", { textContent: "Show" }));
    labels.forEach((label, i) => {
      const box = make("input", { type: "checkbox", checked: true });
      box.addEventListener("change", () => show(i, box.checked));
      fieldset.append(make("label", {}, box, ` ${label}`));
    });
    document.querySelector("[data-losses]").append(fieldset);
  }

  function show(i, shown) {
    document.querySelectorAll(`svg .series-${i}`).forEach((part) => { part.style.display = shown ? "" : "none"; });
    document.querySelectorAll(`[data-series="${i}"]`).forEach((part) => {
      part.hidden = !shown;
      if (part.parentElement.parentElement.tagName !== "THEAD") return;
      for (const row of part.closest("table").tBodies[0].rows) row.cells[part.cellIndex].hidden = !shown;
    });
  }

  // ---- heat maps: the cell under the pointer, and all of them as CSV
  function heatmap(figure, { names, panels, note }) {
    const tip = make("div", { className: "tip", hidden: true });
    tip.setAttribute("role", "status");
    figure.append(tip);
    figure.querySelectorAll("svg").forEach((svg) => svg.addEventListener("pointermove", (event) => {
      const size = names.length;
      const found = panels.findIndex((_, i) => {
        const image = svg.querySelector(`.series-${i} image`), box = image && image.getBoundingClientRect();
        if (!box || event.clientX < box.left || event.clientX >= box.right || event.clientY < box.top || event.clientY >= box.bottom) return false;
        const k = Math.floor((event.clientY - box.top) / box.height * size);
        const j = Math.floor((event.clientX - box.left) / box.width * size);
        const value = panels[i].values[k][j];
        tip.textContent = `${panels[i].label}: P[${names[k]}, ${names[j]}] = ${value === null ? "no samples" : value / 1e4}`;
        return true;
      });
      tip.hidden = found < 0;
      const frame = figure.getBoundingClientRect();
      tip.style.left = `${Math.min(event.clientX - frame.left + 12, Math.max(0, frame.width - tip.offsetWidth))}px`;
      tip.style.top = `${event.clientY - frame.top + 16}px`;
    }));
    figure.addEventListener("pointerleave", () => { tip.hidden = true; });
    const button = make("button", { type: "button", className: "button", textContent: "CSV" });
    button.setAttribute("aria-label", "Download the mean confusion as CSV");
    button.addEventListener("click", () => {
      const rows = panels.flatMap(({ label, values }) => values.map((row, k) => [label, names[k], ...row.map((value) => value === null ? null : value / 1e4)]));
      save("mean_confusion.csv", "text/csv", toCsv([["model", "true class", ...names], ...rows]));
    });
    figure.prepend(make("div", { className: "tools" }, button, note || ""));
  }

  function unfold() {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const part = target && target.closest("details");
    if (!part) return;
    part.open = true;
    target.scrollIntoView();
  }

  document.querySelectorAll(".wide > table").forEach((table) => { withTools(table); sortable(table); });
  const labels = block("losses-data"), cells = block("confusion-data");
  if (labels && labels.length > 1 && document.querySelector("[data-losses]")) hideable(labels);
  if (cells) heatmap(document.getElementById("confusion"), cells);
  addEventListener("hashchange", unfold);
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));
  unfold();
})();
