"use strict";

(async () => {
  const PAGE = 50;
  const PAIRS = 20;
  const DIFF_LIMIT = 250000;
  const STATUS = { completed: "Completed", failed: "Failed", unscored: "Not scored" };
  const order = new Intl.Collator(undefined, { numeric: true });

  // --- small helpers -------------------------------------------------------------------------

  /** An element; text goes in as text nodes only, so data can never become markup. */
  function el(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (typeof value === "function") node.addEventListener(name, value);
      else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
    }
    node.append(...children.flat().filter((child) => child !== null && child !== undefined));
    return node;
  }

  const unique = (values) => [...new Set(values)];
  const present = (value) => value !== null && value !== undefined && value !== "";

  function written(value) {
    if (typeof value === "number" && !Number.isInteger(value)) return String(Number(value.toPrecision(4)));
    return value === null || value === undefined ? "" : String(value);
  }

  let ids = 0;
  function labelled(text, control, attributes = {}) {
    control.id = `control-${ids += 1}`;
    return el("div", attributes, el("label", { for: control.id }, text), control);
  }

  function choice(options, chosen, change) {
    const select = el("select", { change: () => change(select.value) });
    for (const [value, text] of options) select.append(el("option", { value }, text));
    select.value = chosen;
    return select;
  }

  // --- data ----------------------------------------------------------------------------------

  async function load() {
    const bytes = Uint8Array.from(atob(document.getElementById("data").textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const { complete, variants, columns, rows } = await new Response(stream).json();
    const pairs = (names, values) => names.map((name, i) => [name, values[i]]).filter(([, value]) => value !== null);
    return {
      complete,
      variants,
      columns,
      rows: rows.map(([variant, dataset, row, repeat, status, error, latency, prompt, completion, ...groups], index) => ({
        index, variant, dataset, row, repeat, status, error, latency, prompt, completion,
        inputs: pairs(columns.inputs, groups[0]),
        outputs: pairs(columns.outputs, groups[1]),
        scores: pairs(columns.scores, groups[2]),
        references: pairs(columns.references, groups[3]),
      })),
    };
  }

  /** Everything of a row in one lower-case text, made when the first search needs it. */
  function haystack(row) {
    row.haystack ??= [row.variant, row.dataset, row.error,
      ...[...row.inputs, ...row.outputs, ...row.scores, ...row.references].map(([, value]) => written(value)),
    ].join("\n").toLowerCase();
    return row.haystack;
  }

  // --- rows: the table -----------------------------------------------------------------------

  function tableColumns({ columns, rows }) {
    const text = (pairs) => pairs.map(([, value]) => written(value)).join("\n");
    const several = (name) => unique(rows.map((row) => row[name])).length > 1;
    const shown = [{ title: "Row", kind: "open", value: (row) => row.row }];
    if (several("variant")) shown.push({ title: "Variant", kind: "short", value: (row) => row.variant });
    if (several("dataset")) shown.push({ title: "Dataset", kind: "short", value: (row) => row.dataset });
    if (several("repeat")) shown.push({ title: "Repeat", kind: "number", value: (row) => row.repeat });
    shown.push(
      { title: "Status", kind: "status", value: (row) => STATUS[row.status] },
      { title: "Inputs", kind: "text", value: (row) => text(row.inputs), pairs: (row) => row.inputs },
      { title: "Outputs", kind: "text", value: (row) => text(row.outputs) || row.error, pairs: (row) => row.outputs },
    );
    const evaluators = unique(columns.scores.map((name) => name.slice(0, name.lastIndexOf("."))));
    columns.scores.forEach((name) => {
      const value = (row) => row.scores.find(([key]) => key === name)?.[1];
      const values = rows.map(value).filter(present);
      const number = values.every((one) => typeof one === "number");
      const long = values.some((one) => typeof one === "string" && one.length > 24);
      const title = evaluators.length > 1 ? name : name.slice(name.lastIndexOf(".") + 1);
      shown.push({ title, kind: number ? "number" : long ? "long" : "short", value });
    });
    shown.push({ title: "Latency", kind: "number", value: (row) => row.latency,
      show: (value) => `${value.toFixed(2)} s` });
    return shown;
  }

  function compare(a, b) {
    if (!present(a) || !present(b)) return present(b) - present(a) || 0;
    return typeof a === "number" && typeof b === "number" ? a - b : order.compare(String(a), String(b));
  }

  function selected(data, state) {
    const words = state.text.toLowerCase();
    const rows = data.rows.filter((row) =>
      (!state.variant || row.variant === state.variant)
      && (!state.dataset || row.dataset === state.dataset)
      && (!state.status || (state.status === "error" ? row.error !== "" : row.status === state.status))
      && (!words || haystack(row).includes(words)));
    if (!state.sort) return rows;
    const { value } = state.sort;
    return rows.sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      // A missing value comes last in either direction.
      const sign = present(x) && present(y) ? state.direction : 1;
      return sign * compare(x, y) || a.index - b.index;
    });
  }

  function cell(column, row) {
    const attributes = { role: "cell", "data-kind": column.kind, "data-title": column.title };
    if (column.kind === "status") {
      attributes["data-kind"] = "short";
      return el("td", attributes, el("span", { class: `status ${row.status}` }, STATUS[row.status]));
    }
    if (column.kind === "number") {
      const value = column.value(row);
      const text = present(value) ? (column.show ?? written)(value) : "";
      return el("td", { ...attributes, class: "num" }, text || null);
    }
    if (column.kind === "text") {
      const pairs = column.pairs(row);
      const error = column.title === "Outputs" && row.error ? el("div", { class: "clamp error" }, row.error) : null;
      return el("td", attributes, error, pairs.map(([name, value]) => el("div", { class: "clamp" },
        pairs.length > 1 ? el("span", { class: "field" }, `${name}  `) : null, written(value))));
    }
    const text = written(column.value(row));
    return el("td", attributes, text ? el("div", { class: "clamp" }, text) : null);
  }

  function fields(pairs) {
    return el("dl", {}, pairs.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, String(value)))));
  }

  function panel(row) {
    const group = (title, pairs) => (pairs.length ? el("div", {}, el("h3", {}, title), fields(pairs)) : null);
    const facts = [["Variant", row.variant], ["Dataset", row.dataset], ["Latency", row.latency === null ? "–" : `${row.latency} s`],
      ["Prompt tokens", row.prompt], ["Completion tokens", row.completion]];
    const list = fields(facts);
    list.className = "facts";
    return el("div", { class: "panel" },
      row.error ? el("div", {}, el("h3", {}, "Error"), el("p", { class: "error" }, row.error)) : null,
      group("Inputs", row.inputs), group("Outputs", row.outputs), group("Scores", row.scores),
      group("Seen by the evaluator", row.references),
      el("div", {}, el("h3", {}, "Run"), list));
  }

  /** The line of a row and its hidden detail; `above` is the row of the line before. */
  function tableRow(columns, row, above) {
    const id = `row-${row.index}`;
    const button = el("button", { type: "button", class: "open", "aria-expanded": "false", "aria-controls": id },
      el("span", { class: "hidden" }, "Row "), String(row.row));
    const again = above && above.row === row.row && above.repeat === row.repeat && above.dataset === row.dataset;
    const line = el("tr", { class: again ? "row again" : "row", role: "row" },
      el("td", { role: "cell", "data-kind": "open" }, button),
      columns.slice(1).map((column) => cell(column, row)));
    const detail = el("tr", { class: "detail", role: "row", id, hidden: "" });
    const toggle = () => {
      if (!detail.firstChild) detail.append(el("td", { role: "cell", colspan: columns.length }, panel(row)));
      detail.hidden = !detail.hidden;
      button.setAttribute("aria-expanded", String(!detail.hidden));
      line.classList.toggle("opened", !detail.hidden);
    };
    // A click anywhere in the line opens it too, unless it ends the marking of text.
    line.addEventListener("click", ({ target }) => {
      if (button.contains(target) || getSelection().isCollapsed) toggle();
    });
    return [line, detail];
  }

  function header(column, state, sortBy) {
    const dot = column.title.lastIndexOf(".");
    const attributes = { scope: "col", role: "columnheader", class: column.kind === "number" ? "num" : null };
    if (state.sort === column) attributes["aria-sort"] = state.direction > 0 ? "ascending" : "descending";
    return el("th", attributes, el("button", { type: "button", click: () => sortBy(column) },
      dot > 0 ? el("small", {}, column.title.slice(0, dot)) : null,
      el("span", { class: "sorted" }, column.title.slice(dot + 1))));
  }

  function rowsView(data, root) {
    const columns = tableColumns(data);
    const state = { text: "", variant: "", dataset: "", status: "", sort: null, direction: 1, page: 0 };
    const head = el("tr", { role: "row" });
    const body = el("tbody", { role: "rowgroup" });
    const region = el("div", { class: "scroll", role: "region", "aria-label": "Rows", tabindex: "0" },
      el("table", { class: "rows", role: "table" }, el("thead", { role: "rowgroup" }, head), body));
    const count = el("p", { class: "count", "aria-live": "polite" });
    const previous = el("button", { type: "button", click: () => turn(-1) }, "Previous");
    const next = el("button", { type: "button", click: () => turn(1) }, "Next");
    const pager = el("div", { class: "pager" }, previous, next);

    function show() {
      const rows = selected(data, state);
      const start = state.page * PAGE;
      const end = Math.min(start + PAGE, rows.length);
      count.textContent = rows.length ? `${start + 1}–${end} of ${rows.length} rows` : "No row matches.";
      const page = rows.slice(start, end);
      body.replaceChildren(...page.flatMap((row, i) => tableRow(columns, row, page[i - 1])));
      previous.disabled = start === 0;
      next.disabled = end >= rows.length;
      pager.hidden = rows.length <= PAGE;
      controls.sync();
    }
    function set(changes) {
      Object.assign(state, { page: 0 }, changes);
      show();
    }
    function sortBy(column) {
      set({ sort: column, direction: state.sort === column ? -state.direction : 1 });
      const at = columns.indexOf(column);
      head.replaceChildren(...columns.map((one) => header(one, state, sortBy)));
      if (at >= 0) head.children[at].firstChild.focus({ preventScroll: true });
    }
    function turn(step) {
      set({ page: state.page + step });
      region.scrollIntoView({ block: "start" });
    }

    const controls = rowControls(data, columns, state, set, sortBy);
    head.append(...columns.map((column) => header(column, state, sortBy)));
    root.append(controls.node, count, region, pager);
    const failed = document.getElementById("show-failed");
    failed?.removeAttribute("hidden");
    failed?.addEventListener("click", () => {
      set({ status: "error", variant: "", dataset: "", text: "" });
      document.getElementById("rows").focus();
      document.getElementById("rows").scrollIntoView();
    });
    show();
  }

  /** Search, filters and (for narrow screens, where the headers are not shown) sorting. */
  function rowControls(data, columns, state, set, sortBy) {
    const names = (key) => unique(data.rows.map((row) => row[key]));
    const filter = (key, title, options) => [key, title,
      choice([["", "All"], ...options], "", (value) => set({ [key]: value }))];
    const statuses = names("status").map((status) => [status, STATUS[status]]);
    if (data.rows.some((row) => row.error)) statuses.unshift(["error", "With an error"]);
    const filters = [
      ["variant", "Variant"], ["dataset", "Dataset"],
    ].filter(([key]) => names(key).length > 1)
      .map(([key, title]) => filter(key, title,
        (key === "variant" ? data.variants : names(key)).map((name) => [name, name])));
    filters.push(filter("status", "Status", statuses));
    const search = el("input", { type: "search", placeholder: "Text in any field", autocomplete: "off",
      input: () => set({ text: search.value }) });
    const sort = choice([["", "As run, errors first"], ...columns.map((column, i) => [String(i), column.title])], "",
      (value) => (value === "" ? set({ sort: null }) : sortBy(columns[Number(value)])));
    const turn = el("button", { type: "button", click: () => state.sort && sortBy(state.sort) });
    const clear = el("button", { type: "button",
      click: () => set({ text: "", variant: "", dataset: "", status: "", sort: null, direction: 1 }) }, "Clear");
    const node = el("div", { class: "controls", role: "search", "aria-label": "Rows" },
      labelled("Search", search, { class: "wide" }),
      filters.map(([, title, control]) => labelled(title, control)),
      labelled("Sort by", sort, { class: "narrow" }), el("div", { class: "narrow" }, turn), el("div", {}, clear));
    function sync() {
      if (search.value !== state.text) search.value = state.text;
      for (const [key, , control] of filters) control.value = state[key];
      sort.value = state.sort ? String(columns.indexOf(state.sort)) : "";
      turn.textContent = state.direction > 0 ? "Ascending" : "Descending";
      turn.disabled = !state.sort;
    }
    return { node, sync };
  }

  // --- differences ---------------------------------------------------------------------------

  const tokens = (text) => text.match(/\s+|[\p{L}\p{N}_]+|[^\s\p{L}\p{N}_]/gu) ?? [];

  /** Lengths of the longest common subsequences of every two tails of a and b. */
  function tails(a, b) {
    const width = b.length + 1;
    const best = new Uint32Array((a.length + 1) * width);
    for (let i = a.length - 1; i >= 0; i -= 1) {
      for (let j = b.length - 1; j >= 0; j -= 1) {
        best[i * width + j] = a[i] === b[j]
          ? best[(i + 1) * width + j + 1] + 1
          : Math.max(best[(i + 1) * width + j], best[i * width + j + 1]);
      }
    }
    return (i, j) => best[i * width + j];
  }

  /** Which tokens of a and of b have no partner in the other: two lists of true and false. */
  function changed(a, b) {
    let start = 0;
    while (start < a.length && start < b.length && a[start] === b[start]) start += 1;
    let [endA, endB] = [a.length, b.length];
    while (endA > start && endB > start && a[endA - 1] === b[endB - 1]) { endA -= 1; endB -= 1; }
    const inA = a.map((_, i) => i >= start && i < endA);
    const inB = b.map((_, i) => i >= start && i < endB);
    const [midA, midB] = [a.slice(start, endA), b.slice(start, endB)];
    if (midA.length * midB.length > DIFF_LIMIT) return [inA, inB];
    const length = tails(midA, midB);
    for (let i = 0, j = 0; i < midA.length && j < midB.length;) {
      if (midA[i] === midB[j]) { inA[start + i] = inB[start + j] = false; i += 1; j += 1; }
      else if (length(i + 1, j) >= length(i, j + 1)) i += 1;
      else j += 1;
    }
    return [inA, inB];
  }

  function marked(words, flags) {
    const parts = [];
    words.forEach((word, i) => {
      // A space between two marked words is marked with them.
      const flag = Boolean(flags[i] || (!word.trim() && flags[i - 1] && flags[i + 1]));
      const last = parts.at(-1);
      if (last && last.flag === flag) last.text += word;
      else parts.push({ text: word, flag });
    });
    return parts.map(({ text, flag }) => (flag ? el("mark", {}, text) : text));
  }

  /** What of a row can differ: its error, outputs and scores. */
  function results(row) {
    const error = row.error ? [["error", row.error]] : [];
    return new Map([...error, ...row.outputs, ...row.scores]);
  }

  function differing(data, first, second) {
    const key = (row) => JSON.stringify([row.dataset, row.row, row.repeat]);
    const others = new Map(data.rows.filter((row) => row.variant === second).map((row) => [key(row), row]));
    const pairs = data.rows.filter((row) => row.variant === first && others.has(key(row)))
      .map((row) => {
        const other = others.get(key(row));
        const [a, b] = [results(row), results(other)];
        const names = unique([...a.keys(), ...b.keys()]).filter((name) => a.get(name) !== b.get(name));
        return { row, other, a, b, names };
      });
    const datasets = unique(data.rows.map((row) => row.dataset));
    const found = pairs.filter((pair) => pair.names.length)
      .sort((x, y) => datasets.indexOf(x.row.dataset) - datasets.indexOf(y.row.dataset) || x.row.row - y.row.row
        || x.row.repeat - y.row.repeat);
    return { total: pairs.length, found };
  }

  function side(letter, words, flags) {
    return el("div", { class: `side ${letter}` }, el("b", {}, letter.toUpperCase()),
      el("div", { class: "text" }, words.length ? marked(words, flags) : "–"));
  }

  function pairCard({ row, a, b, names }, several) {
    const repeat = row.repeat === null ? "" : `, repeat ${row.repeat}`;
    const title = `Row ${row.row}${repeat}${several ? ` · ${row.dataset}` : ""}`;
    const sides = names.flatMap((name) => {
      const [left, right] = [tokens(written(a.get(name))), tokens(written(b.get(name)))];
      // Where one side has nothing, marking all of the other would say no more.
      const [inA, inB] = left.length && right.length ? changed(left, right) : [[], []];
      return [el("div", { class: "field" }, name), side("a", left, inA), side("b", right, inB)];
    });
    return el("article", { class: "pair", "aria-label": title },
      el("details", {}, el("summary", {}, el("b", {}, title),
        el("span", {}, row.inputs.map(([, value]) => written(value)).join(" · "))), fields(row.inputs)),
      el("div", { class: "sides" }, sides));
  }

  function differencesView(data, root) {
    const { variants } = data;
    const several = unique(data.rows.map((row) => row.dataset)).length > 1;
    const state = { a: variants[0], b: variants[1] ?? variants[0], only: null, shown: PAIRS };
    const options = variants.map((name) => [name, name]);
    const pick = (side) => choice(options, state[side], (value) => set({ [side]: value, only: null }));
    const [a, b] = [pick("a"), pick("b")];
    const all = el("button", { type: "button", click: () => set({ only: null }) }, "Show all that differ");
    const count = el("p", { class: "count", "aria-live": "polite" });
    const list = el("div");
    const more = el("button", { type: "button", click: () => {
      const place = list.children.length;
      state.shown += PAIRS;
      show();
      list.children[place]?.querySelector("summary").focus();
    } }, "Show more");

    function set(changes) {
      Object.assign(state, { shown: PAIRS }, changes);
      [a.value, b.value] = [state.a, state.b];
      show();
    }

    function show() {
      const differs = differing(data, state.a, state.b);
      const chosen = ({ row }) => row.dataset === state.only.dataset && state.only.rows.has(row.row);
      const found = state.only ? differs.found.filter(chosen) : differs.found;
      const here = data.complete ? "" : " on this page";
      count.textContent = state.a === state.b ? "Choose two variants."
        : state.only ? `${unique(found.map(({ row }) => row.row)).length} of ${state.only.rows.size} rows that changed${here}.`
          : `${found.length} of ${differs.total} rows${here} differ.`;
      all.hidden = !state.only;
      list.replaceChildren(...found.slice(0, state.shown)
        .map((pair) => pairCard(pair, several)));
      more.hidden = found.length <= state.shown;
    }

    root.append(el("div", { class: "controls" }, labelled("A", a), labelled("B", b), all),
      count, list, el("div", { class: "pager" }, more));
    for (const link of document.querySelectorAll("a.flipped")) {
      link.addEventListener("click", () => {
        const { a: first, b: second, dataset, rows } = link.dataset;
        set({ a: first, b: second, only: { dataset, rows: new Set(rows.split(" ").map(Number)) } });
      });
    }
    show();
  }

  // --- start ---------------------------------------------------------------------------------

  const rowsRoot = document.getElementById("rows-view");
  try {
    const data = await load();
    rowsView(data, rowsRoot);
    const differencesRoot = document.getElementById("differences-view");
    if (differencesRoot) differencesView(data, differencesRoot);
  } catch (error) {
    rowsRoot.replaceChildren(el("p", { role: "alert" },
      `This browser cannot unpack the rows (${error.message}). Open outputs.csv instead.`));
  }
})();
