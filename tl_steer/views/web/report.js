/* The report: a table, a page for every vector, and an address for each (#v12, #v12/attention). */
(() => {
  const T = TlSteer, el = T.el;
  const TABS = { logit_change: ["tokens", "Next tokens"], attention_change: ["attention", "Attention"], residual_response: ["response", "Response"], logit_attribution: ["attribution", "What carries it"], token_log_probs: ["likelihood", "Likelihood"], steered_tokens: ["steered", "Where added"] };
  let data, place, order = [], sort = { by: "vector", down: false }, wanted = "", chosen = 0;

  const columns = () => {
    const any = (name) => data.rows.some((row) => row[name] !== undefined);
    const list = [
      { key: "vector", name: "#", num: true, cell: (r) => el("a", { href: "#v" + r.vector }, r.vector), kind: "id" },
      { key: "objective", name: "objective", num: true, cell: (r) => T.num(r.objective), wide: true },
      { key: "response", name: "|response|", num: true, cell: (r) => T.num(r.response), wide: true },
      { key: "cosine", name: "nearest", num: true, cell: (r) => (r.nearest < 0 ? "" : `${T.num(r.cosine)} #${r.nearest}`), wide: true },
      ...data.scores.map((name, i) => ({ key: "score " + name, name, num: true, cell: (r) => T.num(r.scores[i]), value: (r) => T.value(r.scores[i]), wide: true })),
    ];
    if (any("kl")) list.push(
      { key: "kl", name: "KL", num: true, cell: (r) => (r.kl === undefined ? "" : T.num(r.kl)) },
      { key: "kls", name: "over tokens", cell: (r) => r.kls && T.spark(r.kls, { bars: true, label: "KL over tokens" }), value: (r) => (r.kls ? T.most(r.kls) : -1), wide: true },
      { key: "growth", name: "through layers", cell: (r) => r.growth && T.spark(r.growth, { label: "Response through the layers" }), value: (r) => (r.growth ? T.value(r.growth[r.growth.length - 1]) : -1), wide: true },
      { key: "head_change", name: "head", cell: (r) => (r.head ? `${r.head} (${T.num(r.head_change)})` : ""), wide: true });
    if (any("text") || data.rows.some((row) => row.label)) list.push({ key: "text", name: "text", kind: "text", cell: (r) => el("span", {}, r.label && el("b", {}, r.label + " "), r.text || "") });
    return list;
  };

  const valued = (column, row) => (column.value ? column.value(row) : column.key === "text" ? row.text || "" : T.value(row[column.key]));
  const ordered = () => {
    const column = columns().find((c) => c.key === sort.by), words = wanted.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = data.rows.filter((r) => { const said = `#${r.vector} ${r.label} ${r.text || ""} ${r.head || ""} ${r.gained || ""} ${r.lost || ""}`.toLowerCase(); return words.every((w) => said.includes(w)); });
    const flip = sort.down ? -1 : 1;
    return rows.map((row) => [valued(column, row), row]).sort(([a], [b]) => {
      const lost = (x) => typeof x !== "string" && !(x === Infinity || x === -Infinity || Number.isFinite(x));
      if (lost(a) || lost(b)) return lost(a) - lost(b);
      return (a < b ? -1 : a > b ? 1 : 0) * flip;
    }).map(([, row]) => row);
  };

  const table = (root) => {
    const body = el("tbody"), count = el("span", { class: "small", role: "status" });
    const heads = columns().map((c) => {
      const th = el("th", { scope: "col", class: c.num ? "num" : null }, el("button", { type: "button", onclick: () => { sort = sort.by === c.key ? { by: c.key, down: !sort.down } : { by: c.key, down: c.key !== "vector" && c.key !== "text" }; fill(); } }, c.name));
      th.column = c.key;
      return th;
    });
    const fill = () => {
      heads.forEach((th) => { if (th.column === sort.by) th.setAttribute("aria-sort", sort.down ? "descending" : "ascending"); else th.removeAttribute("aria-sort"); });
      const rows = ordered();
      order = rows.map((r) => r.vector);
      T.put(body, ...rows.map((row) => el("tr", { class: row.changed === false ? "same" : null, "data-vector": row.vector, onclick: (event) => { if (!event.target.closest("a")) location.hash = "v" + row.vector; } },
        columns().map((c) => el("td", { class: [c.num ? "num" : "", c.kind || "", c.wide ? "wide-only" : ""].join(" ").trim() || null }, c.cell(row))))));
      count.textContent = rows.length === data.rows.length ? `${rows.length} vectors` : `${rows.length} of ${data.rows.length} vectors`;
    };
    const filter = el("input", { type: "search", class: "filter", placeholder: "Filter by text, label, token or #number", "aria-label": "Filter vectors", value: wanted, oninput: (event) => { wanted = event.target.value; fill(); } });
    T.add(root, 
      data.prompt && el("p", { class: "note" }, "Prompt: ", el("span", { class: "said" }, data.prompt)),
      data.unsteered && el("p", {}, el("span", { class: "note" }, "Unsteered: "), el("span", { class: "said" }, data.unsteered)),
      el("div", { class: "row" }, filter, count, el("span", { class: "small hide-small" }, el("kbd", {}, "/"), " filter  ", el("kbd", {}, "j"), " ", el("kbd", {}, "k"), " move  ", el("kbd", {}, "Enter"), " open")),
      el("table", { class: "bank" }, el("thead", {}, el("tr", {}, heads)), body));
    fill();
    if (data.controls.length) T.add(root, 
      el("h2", { style: { marginTop: "28px" } }, "Random vectors of the same radius"),
      el("p", { class: "note" }, `The control: ${data.controls.filter((c) => c.changed).length} of ${data.controls.length} change the text too. What they do, any vector does.`),
      data.controls.map((c) => el("div", { class: "random" }, T.pieces(c.pieces))));
    data.notes.forEach((note) => T.add(root, el("p", { class: "note" }, note)));
  };

  const facts = (list) => el("div", { class: "facts" }, list.map(([name, value]) => el("div", {}, el("span", {}, name), el("b", {}, value))));

  const vector = (root, number, tab) => {
    const row = data.rows.find((r) => r.vector === number), block = document.getElementById("vector-" + number);
    if (!row || !block) { T.add(root, el("p", {}, block || !row ? `There is no vector ${number}.` : "Reading…")); return; }
    const page = JSON.parse(block.textContent), at = order.indexOf(number);
    const step = (by) => order[(at + by + order.length) % order.length];
    T.add(root, el("div", { class: "row no-print" }, el("a", { href: "#" }, "← all vectors"), order.length > 1 && el("a", { href: "#v" + step(-1), rel: "prev" }, `‹ ${step(-1)}`), order.length > 1 && el("a", { href: "#v" + step(1), rel: "next" }, `${step(1)} ›`)),
      el("h1", {}, `Vector ${number}`, row.label ? ` ${T.quoted(row.label)}` : ""),
      facts([["objective", T.num(row.objective)], ["|response|", T.num(row.response)], row.nearest >= 0 && ["nearest in effect", `#${row.nearest}, |cos| ${T.num(row.cosine)}`], row.kl !== undefined && ["KL behind the prompt", T.num(row.kl) + " nats"], row.head && ["head most changed", `${row.head} (${T.num(row.head_change)})`], ...data.scores.map((name, i) => [name, T.num(row.scores[i])])].filter(Boolean)));
    const seen = page.inspections[Math.min(chosen, page.inspections.length - 1)];
    const tabs = [];
    if (page.texts.length) tabs.push(["text", "Text", (body) => texts(body, page)]);
    for (const view of seen ? seen.views : []) tabs.push([...TABS[view.kind], (body) => T.draw[view.kind](body, view.data)]);
    if (page.sweep.length) tabs.push(["sweep", "Sweep", (body) => T.add(body, facts(page.sweep))]);
    if (page.alerts) tabs.push(["alerts", "Alerts", (body) => T.draw.alerts(body, page.alerts)]);
    if (!tabs.length) { T.add(root, el("p", { class: "note" }, "Nothing was measured of this vector on a prompt.")); return; }
    const current = tabs.find(([name]) => name === tab) || tabs[0];
    if (page.inspections.length > 1) {
      const box = el("select", { "aria-label": "Prompt inspected" }, page.inspections.map((s, i) => el("option", { value: i, selected: i === chosen }, s.prompt.slice(0, 90))));
      box.addEventListener("change", () => { chosen = Number(box.value); route(); });
      T.add(root, el("div", { class: "row" }, el("span", { class: "note" }, "inspected on"), box));
    }
    T.add(root, el("nav", { class: "tabs", "aria-label": "Views" }, tabs.map(([name, title]) => el("a", { href: `#v${number}/${name}`, "aria-current": name === current[0] ? "page" : null }, title))));
    const body = root.appendChild(el("section", { "aria-label": current[1] }));
    current[2](body);
    if (!seen) T.add(root, el("p", { class: "note" }, "This vector was not inspected, so there are no views of the model's inside: tl-steer report --vector adds them."));
  };

  const texts = (root, page) => page.texts.forEach((t, p) => T.add(root, 
    el("p", { class: "note" }, "Prompt: ", el("span", { class: "said" }, t.prompt)),
    el("div", { class: "compare" }, el("div", { class: "card" }, el("h3", {}, "Unsteered"), el("span", { class: "said" }, t.unsteered)), el("div", { class: "card steered" }, el("h3", {}, "Steered"), T.pieces(t.pieces))),
    (page.controls[p] || []).length > 0 && el("div", {}, el("h3", {}, "Random vectors of the same radius"), page.controls[p].map((pieces) => el("div", { class: "random" }, T.pieces(pieces))))));

  const route = () => {
    const hash = decodeURIComponent(location.hash.slice(1)), match = /^v(\d+)(?:\/(\w+))?$/.exec(hash);
    const section = data.sections.find((s) => s.name === hash);
    T.put(place);
    document.querySelectorAll("nav.main a").forEach((a) => { if ((a.hash || "#") === "#" + (match ? "" : hash)) a.setAttribute("aria-current", "page"); else a.removeAttribute("aria-current"); });
    document.getElementById("root").classList.toggle("inner", !!match);
    if (match) vector(place, Number(match[1]), match[2]);
    else if (section) { T.show(place, section); }
    else if (hash === "provenance") T.add(place, el("h2", {}, "How it was made"), el("table", {}, el("tbody", {}, data.provenance.map(([name, value]) => el("tr", {}, el("th", { scope: "row", style: { width: "190px" } }, name), el("td", { class: "said" }, value))))));
    else table(place);
    document.title = match ? `Vector ${match[1]} · ${data.title}` : data.title;
  };
  T.open = (number) => { location.hash = "v" + number; };

  const keys = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) { if (event.key === "Escape") event.target.blur(); return; }
    const rows = [...document.querySelectorAll("table.bank td.id a")], match = /^#v(\d+)(\/\w+)?$/.exec(location.hash);
    if (event.key === "/") { const box = document.querySelector(".filter"); if (box) { event.preventDefault(); box.focus(); } }
    else if (event.key === "Escape") location.hash = "";
    else if (rows.length && (event.key === "j" || event.key === "k")) {
      const at = rows.indexOf(document.activeElement), to = event.key === "j" ? Math.min(at + 1, rows.length - 1) : Math.max(at - 1, 0);
      rows[to].focus();
    } else if (match && (event.key === "ArrowRight" || event.key === "ArrowLeft")) {
      const at = order.indexOf(Number(match[1])), to = order[(at + (event.key === "ArrowRight" ? 1 : -1) + order.length) % order.length];
      if (to !== undefined) location.hash = `v${to}${match[2] || ""}`;
    }
  };

  T.report = () => {
    data = T.block("overview");
    order = data.rows.map((r) => r.vector);
    const root = document.getElementById("root");
    const theme = el("button", { type: "button", class: "no-print", "aria-label": "Light or dark", onclick: () => {
      const dark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
      document.documentElement.dataset.theme = dark ? "light" : "dark";
      T.repaintAll();
    } }, "◐");
    const link = (name, title) => el("a", { href: "#" + name }, title);
    place = el("div");
    T.add(root, el("header", { class: "top" }, el("div", {}, el("p", { class: "eyebrow" }, "tl_steer report"), el("h1", {}, data.title)), theme),
      facts(data.facts),
      el("nav", { class: "tabs main", "aria-label": "Report" }, link("", "Vectors"), data.sections.map((s) => link(s.name, { map: "Map", dose: "Dose", selection: "Selection", sweep: "Sweep", alerts: "Alerts" }[s.name] || T.short(s.title))), link("provenance", "Provenance")),
      place);
    addEventListener("hashchange", () => { route(); scrollTo(0, 0); });
    addEventListener("keydown", keys);
    route();
    // Pages of vectors lie behind this script: a link to one waits until they have been read.
    addEventListener("DOMContentLoaded", () => { if (location.hash) route(); });
    performance.mark("tl-steer-ready");
  };
})();
