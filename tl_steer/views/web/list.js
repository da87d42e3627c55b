/* The table of vectors: sorted, searched through every text, and with no more rows in the page than
   somebody can look at. */
(() => {
  const T = TlSteer, el = T.el;
  const WINDOWED = 150; // rows from which only those in sight are in the page
  let data = null, texts = null, lower = null, order = [], left = { top: 0, vector: null };

  T.order = (rows) => (rows ? (order = rows.map((row) => row.vector)) : order);
  T.texts = async () => (texts = texts || (await T.read("texts")));

  const prompt = () => (data.prompts[T.at.number("p")] === undefined ? null : T.at.number("p"));
  /* What is known of a vector on the chosen prompt, or on the one where it moves most. */
  const glance = (row) => {
    const at = prompt(), all = Object.entries(row.seen);
    if (at !== null) return row.seen[at] || null;
    const size = ([, seen]) => { const x = T.value(seen.kl); return Number.isNaN(x) ? -1 : x; };
    return all.length ? all.reduce((a, b) => (size(b) > size(a) ? b : a))[1] : null;
  };
  const text = (row) => {
    const at = prompt();
    if (at === null || !texts) return row.text || "";
    return ((texts.vectors[row.vector] || [])[at] || "").slice(0, 220);
  };
  const changed = (row) => {
    const at = prompt(), list = row.changed || [];
    return at === null ? list : list.slice(at, at + 1);
  };
  const count = (row) => changed(row).reduce((a, b) => a + b, 0);

  const columns = () => {
    const seen = data.rows.some((row) => Object.keys(row.seen).length), of = (name) => (r) => { const g = glance(r); return g && g[name]; };
    const list = [
      { key: "vector", name: "#", num: true, cell: (r) => el("a", { href: "#v" + r.vector }, r.vector), kind: "id", value: (r) => r.vector },
      { key: "objective", name: "objective", num: true, cell: (r) => T.num(r.objective), value: (r) => T.value(r.objective), wide: true },
      { key: "response", name: "|response|", num: true, cell: (r) => T.num(r.response), value: (r) => T.value(r.response), wide: true },
      { key: "cosine", name: "nearest", num: true, cell: (r) => (r.nearest < 0 ? "–" : `${T.num(r.cosine)} #${r.nearest}`), value: (r) => T.value(r.cosine), wide: true },
      ...data.scores.map((name, i) => ({ key: "score " + name, name, num: true, cell: (r) => T.num(r.scores[i]), value: (r) => T.value(r.scores[i]), wide: true })),
    ];
    if (seen) list.push(
      { key: "kl", name: "KL", num: true, cell: (r) => strength(r, glance(r)), value: (r) => T.value(of("kl")(r)) },
      { key: "kls", name: "over tokens", cell: (r) => of("kls")(r) && T.spark(of("kls")(r), { bars: true, label: "KL over tokens" }), value: (r) => (of("kls")(r) ? T.most(of("kls")(r)) : NaN), wide: true },
      { key: "growth", name: "through layers", cell: (r) => of("growth")(r) && T.spark(of("growth")(r), { label: "Response through the layers" }), value: (r) => (of("growth")(r) ? T.value(of("growth")(r).at(-1)) : NaN), wide: true },
      { key: "head_change", name: "head", cell: (r) => (of("head")(r) ? `${of("head")(r)}\u00a0(${T.num(of("head_change")(r))})` : ""), value: (r) => T.value(of("head_change")(r)), wide: true });
    if (data.rows.some((row) => row.quotes)) list.push({ key: "quotes", name: "quotes", num: true, says: quotes(), cell: (r) => r.quotes || "–", value: (r) => r.quotes || NaN });
    if (data.rows.some((row) => row.changed && row.changed.length > 1)) list.push({ key: "changed", name: "changed", num: true, cell: (r) => `${count(r)} of ${changed(r).length}`, value: count });
    const generated = data.rows.some((row) => row.text !== undefined);
    list.push({ key: "text", name: generated ? "text" : "notes", kind: "text", cell: says, value: (r) => text(r) || noted(r) });
    return list;
  };

  /* What nobody should have to look for. */
  const leak = () => {
    const most = data.rows.reduce((a, b) => ((b.quotes || 0) > (a.quotes || 0) ? b : a), {});
    if (!most.quotes || data.quoted === null || most.quotes <= data.quoted) return null;
    const least = data.quoted ? `at most ${data.quoted}` : "fewer than 4";
    return el("p", { class: "finding" }, el("a", { href: "#v" + most.vector }, `Vector ${most.vector}`), ` repeats ${most.quotes} words in a row from the system prompt; random vectors ${least}.`);
  };
  const quotes = () => `Words in a row from the system prompt. Random vectors: ${data.quoted === null ? "not measured" : data.quoted || "fewer than 4"}.`;
  const strength = (row, seen) => {
    if (!seen) return el("span", { title: "Not inspected on this prompt." }, "–");
    const at = Object.keys(row.seen).find((p) => row.seen[p] === seen), band = (data.bands || {})[at];
    const inside = band && T.value(seen.kl) <= T.value(band[1]);
    return [el("span", { class: inside ? "quiet" : null }, T.num(seen.kl)), band && el("span", { class: "band", title: "Random vectors on the same prompt, 5 to 95 %" }, `random ${T.num(band[0])}–${T.num(band[1])}`)];
  };

  const terms = () => (T.at.get("q") || "").toLowerCase().split(/\s+/).filter(Boolean);
  const noted = (row) => Object.values(T.notes.get(row.vector)).filter(Boolean).join(" ");
  const known = (row) => `${noted(row)} ${Object.values(row.seen).map((s) => `${s.head} ${s.gained} ${s.lost}`).join(" ")}`.toLowerCase();
  /* In which text of a vector a word is; the row's own words count as well. */
  const found = (row, word) => {
    if (word[0] === "#") return word.slice(1) === String(row.vector) ? {} : null;
    const at = ((lower || {})[row.vector] || []).findIndex((said) => said.includes(word));
    if (at >= 0) return { prompt: at };
    return known(row).includes(word) || String(row.text || "").toLowerCase().includes(word) ? {} : null;
  };

  const says = (row) => {
    const words = terms().filter((word) => word[0] !== "#");
    const hit = words.map((word) => [word, found(row, word)]).find(([, where]) => where && where.prompt !== undefined);
    return el("span", {}, T.notes.badge(row.vector), hit ? snippet(row, ...hit) : text(row));
  };
  const snippet = (row, word, where) => {
    const said = texts.vectors[row.vector][where.prompt], at = lower[row.vector][where.prompt].indexOf(word);
    const from = Math.max(0, at - 70), end = at + word.length;
    return [data.prompts.length > 1 && el("span", { class: "where" }, `prompt ${where.prompt + 1}: `), from ? "…" : "", said.slice(from, at), el("mark", {}, said.slice(at, end)), said.slice(end, end + 110)];
  };

  const sorting = () => {
    const said = T.at.get("s") || "vector";
    return said[0] === "-" ? { by: said.slice(1), down: true } : { by: said, down: false };
  };
  const ordered = (list) => {
    const { by, down } = sorting(), column = list.find((c) => c.key === by) || list[0], words = terms();
    const missing = (x) => typeof x !== "string" && Number.isNaN(x);
    return data.rows.filter((row) => words.every((word) => found(row, word))).map((row) => [column.value(row), row]).sort(([a], [b]) => {
      if (missing(a) || missing(b)) return missing(a) - missing(b);
      return (a < b ? -1 : a > b ? 1 : 0) * (down ? -1 : 1);
    }).map(([, row]) => row);
  };

  const line = (row, list) => el("tr", { class: row.changed && !count(row) ? "same" : null, "data-vector": row.vector,
    onclick: (event) => { if (!event.target.closest("a, button, input")) T.open(row.vector); } },
    list.map((c) => el("td", { class: [c.num ? "num" : "", c.kind || "", c.wide ? "wide-only" : ""].join(" ").trim() || null }, c.cell(row))));

  /* Rows of one height, and as much room as the others would take above and below them. */
  const windowed = (body, rows, list) => {
    const high = matchMedia("(max-width: 640px)").matches ? 84 : 46, above = el("tr", { class: "room", "aria-hidden": "true" }, el("td", { colspan: list.length })), below = above.cloneNode(true);
    let shown = null;
    const made = new Map(), row = (at) => made.get(at.vector) || made.set(at.vector, line(at, list)).get(at.vector);
    const fill = () => {
      const top = body.getBoundingClientRect().top, from = Math.max(0, Math.floor(-top / high) - 20), to = Math.min(rows.length, from + Math.ceil(innerHeight / high) + 40);
      if (shown && shown[0] <= Math.max(0, from + 10) && shown[1] >= Math.min(rows.length, to - 10)) return;
      shown = [from, to];
      above.firstChild.style.height = from * high + "px";
      below.firstChild.style.height = (rows.length - to) * high + "px";
      const focused = document.activeElement && document.activeElement.closest && document.activeElement.closest("tr[data-vector]");
      T.put(body, above, rows.slice(from, to).map(row), below);
      if (focused) T.focusRow(Number(focused.dataset.vector), false);
    };
    const watch = () => (body.isConnected ? fill() : removeEventListener("scroll", watch));
    addEventListener("scroll", watch, { passive: true });
    T.whilePrinting(body, () => T.put(body, rows.map((row) => line(row, list))), () => { shown = null; fill(); });
    T.put(body, above, below);
    requestAnimationFrame(fill);
    fill();
    return (vector) => {
      const at = rows.findIndex((row) => row.vector === vector), box = body.getBoundingClientRect();
      const y = box.top + scrollY + at * high;
      if (at >= 0 && (y < scrollY + 60 || y > scrollY + innerHeight - 2 * high)) { scrollTo(0, y - innerHeight / 2); fill(); }
    };
  };

  let reach = () => {};
  T.focusRow = (vector, scroll = true) => {
    if (scroll) reach(vector);
    const link = document.querySelector(`table.bank tr[data-vector="${vector}"] td.id a`);
    if (link) link.focus({ preventScroll: !scroll });
  };
  T.leaveList = (vector) => { if (document.querySelector("table.bank")) left = { top: scrollY, vector }; };

  T.list = (root, overview) => {
    data = overview;
    const list = columns(), body = el("tbody"), status = el("span", { class: "small", role: "status" });
    const heads = list.map((c) => el("th", { scope: "col", "data-key": c.key, class: [c.num ? "num" : "", c.wide ? "wide-only" : ""].join(" ").trim() || null }, el("button", { type: "button", onclick: () => sort(c.key), title: c.says || null }, c.name)));
    const sort = (key) => {
      const { by, down } = sorting();
      T.at.set({ s: (by === key ? !down : key !== "vector" && key !== "text") ? "-" + key : key });
      fill();
    };
    const fill = () => {
      const { by, down } = sorting(), rows = ordered(list);
      heads.forEach((th) => { if (th.dataset.key === by) th.setAttribute("aria-sort", down ? "descending" : "ascending"); else th.removeAttribute("aria-sort"); });
      order = rows.map((row) => row.vector);
      const many = rows.length > WINDOWED;
      table.classList.toggle("windowed", many);
      reach = () => {};
      if (many) reach = windowed(body, rows, list);
      else T.put(body, rows.length ? rows.map((row) => line(row, list)) : el("tr", {}, el("td", { colspan: list.length, class: "note" }, "No vector has all of these words in its texts, notes, head or tokens.")));
      status.textContent = rows.length === data.rows.length ? `${rows.length} vectors` : `${rows.length} of ${data.rows.length} vectors`;
    };
    const search = (event) => {
      T.at.set({ q: event.target.value });
      clearTimeout(search.waits);
      search.waits = setTimeout(() => searchable().then(fill), data.rows.length > WINDOWED ? 120 : 0);
    };
    const filter = el("input", { type: "search", class: "filter", placeholder: "Search all texts, notes, tokens, or #number", "aria-label": "Filter vectors", value: T.at.get("q") || "", oninput: search });
    const table = el("table", { class: "bank" }, el("thead", {}, el("tr", {}, heads)), body);
    T.add(root, leak(), picker(fill), shownPrompt(), el("div", { class: "row" }, filter, status,
      el("span", { class: "small hide-small no-print" }, [["/", "search"], ["j", ""], ["k", "move"], ["Enter", "open"], ["?", "keys"]].map(([key, does]) => [el("kbd", {}, key), ` ${does} `]))),
      T.figure("Vectors", table, () => exported(list)));
    fill();
    if (terms().length || prompt() !== null) searchable().then(fill);
    controls(root);
    data.notes.forEach((note) => T.add(root, el("p", { class: "note" }, note)));
    if (left.vector !== null) { scrollTo(0, left.top); T.focusRow(left.vector, false); left = { top: 0, vector: null }; }
  };

  const exported = (list) => {
    const values = (row) => list.map((c) => (c.key === "text" ? text(row) : c.value(row)));
    const notes = ({ flag, label, comment }) => [flag, label, comment];
    return [[...list.map((c) => c.name), "flag", "label", "comment"], ...ordered(list).map((row) => [...values(row), ...notes(T.notes.get(row.vector))])];
  };

  const searchable = async () => {
    await T.texts();
    lower = lower || Object.fromEntries(Object.entries(texts.vectors).map(([vector, list]) => [vector, list.map((said) => said.toLowerCase())]));
  };

  const picker = (fill) => {
    if (data.prompts.length < 2) return null;
    const box = el("select", { "aria-label": "Prompt" }, el("option", { value: "" }, "all prompts, each vector where it moves most"),
      data.prompts.map((said, p) => el("option", { value: p, selected: p === prompt() }, `${p + 1}: ${said.slice(0, 90)}`)));
    box.addEventListener("change", async () => { T.at.set({ p: box.value }); await searchable(); fill(); T.put(place, said()); });
    return el("div", { class: "row" }, el("label", { class: "small" }, "Prompt ", box));
  };
  let place = null;
  const said = () => {
    const at = data.prompts.length === 1 ? 0 : prompt();
    if (at === null) return [];
    const base = texts ? texts.unsteered[at] : null;
    return [el("p", { class: "note" }, "Prompt: ", el("span", { class: "said" }, data.prompts[at])),
      base && el("p", {}, el("span", { class: "note" }, "Unsteered: "), el("span", { class: "said" }, base))];
  };
  const shownPrompt = () => {
    place = el("div", {}, said());
    T.texts().then(() => T.put(place, said()));
    return place;
  };

  const controls = (root) => {
    const box = root.appendChild(el("div"));
    T.texts().then((all) => {
      if (!all || !all.controls.length) return;
      const at = prompt() || 0, base = all.unsteered[at], changes = all.controls.filter((row) => row[at] !== base).length;
      T.add(box, el("h2", { class: "later" }, "Random vectors of the same radius"),
        el("p", { class: "note" }, `The control: ${changes} of ${all.controls.length} change the text too${data.prompts.length > 1 ? ` on prompt ${at + 1}` : ""}. What they do, any vector does.`),
        all.controls.slice(0, 16).map((row) => el("div", { class: "random" }, T.said(base, row[at]))));
    });
  };
})();
