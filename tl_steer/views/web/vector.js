/* One vector's page: a tab for every view of it, drawn when it is opened. */
(() => {
  const T = TlSteer, el = T.el;
  // Tabs in this order; kinds that are not named here come behind.
  const ORDER = ["text", "strengths", "continuation", "logit_change", "attention_change", "residual_response", "logit_attribution", "likelihood", "circuitsvis", "steered_tokens", "sweep_row", "alerts"];
  T.vectorTabs.push({ kind: "text", name: "text", title: "Text" }, { kind: "logit_change", name: "tokens", title: "Next tokens" },
    { kind: "attention_change", name: "attention", title: "Attention" }, { kind: "residual_response", name: "response", title: "Response" },
    { kind: "logit_attribution", name: "attribution", title: "What carries it" }, { kind: "likelihood", name: "likelihood", title: "Likelihood" },
    { kind: "steered_tokens", name: "steered", title: "Where added" }, { kind: "sweep_row", name: "sweep", title: "Sweep" }, { kind: "alerts", name: "alerts", title: "Alerts" });
  let data = null, drawing = 0;

  T.facts = (list) => el("div", { class: "facts" }, list.filter(Boolean).map(([name, value, note]) => el("div", {}, el("span", {}, name), el("b", {}, value), note && el("small", {}, note))));
  T.draw.sweep_row = (root, facts) => T.add(root, T.facts(facts));

  const id = (vector, kind, prompt) => `v${vector}.${kind}` + (prompt === null ? "" : "." + prompt);
  const bare = (kind) => kind === "sweep_row" || kind === "alerts";
  /* Prompts on which a kind of view is there. */
  const on = (vector, kind) => (vector === null ? [] : data.prompts).map((_, p) => p).filter((p) => T.has(id(vector, kind, p)));
  const tabs = (row) => T.vectorTabs.filter(({ kind }) => (kind === "text" ? row.changed : bare(kind) ? T.has(id(row.vector, kind, null)) : on(row.vector, kind).length))
    .sort((a, b) => place(a.kind) - place(b.kind));
  const place = (kind) => (ORDER.indexOf(kind) + 1 || 99);

  /* What a panel of the vector that is open shows on the same prompt, or of another one; null where there is none. */
  T.panel = async (kind, { vector = T.opened(), prompt = shownPrompt(vector, kind) } = {}) => {
    const found = await T.read(id(vector, kind, bare(kind) ? null : prompt));
    return found && found.data;
  };
  T.opened = () => { const match = /^v(\d+)/.exec(T.at.path()); return match && Number(match[1]); };
  const shownPrompt = (vector, kind) => { const list = on(vector, kind), at = T.at.number("p"); return list.includes(at) ? at : at === null && list.length ? list[0] : null; };

  /* A function that draws a view of a vector at once; null where there is none on this prompt. */
  T.drawable = async (vector, kind) => {
    const row = data.rows.find((r) => r.vector === vector);
    if (kind === "text") { const all = await T.texts(); return (root) => texts(root, row, all); }
    const prompt = bare(kind) ? null : shownPrompt(vector, kind);
    const panel = bare(kind) || prompt !== null ? await T.read(id(vector, kind, prompt)) : null;
    return panel && ((root) => T.drawn(root, panel.kind, panel.data));
  };
  T.drawPanel = async (root, vector, kind) => {
    const draw = await T.drawable(vector, kind);
    if (draw) return draw(root);
    T.add(root, el("p", { class: "note" }, `Vector ${vector} has no such view on this prompt.`));
    return null;
  };

  const texts = (root, row, all) => {
    const only = T.at.number("p");
    const numbers = all.unsteered.map((_, p) => p).filter((p) => only === null || all.unsteered[only] === undefined || p === only);
    for (const p of numbers) T.add(root,
      el("p", { class: "note" }, numbers.length > 1 ? `Prompt ${p + 1}: ` : "Prompt: ", el("span", { class: "said" }, data.prompts[p])),
      el("div", { class: "compare" }, el("div", { class: "card" }, el("h3", {}, "Unsteered"), el("span", { class: "said" }, all.unsteered[p])),
        el("div", { class: "card steered" }, el("h3", {}, "Steered"), row.changed[p] ? T.said(all.unsteered[p], all.vectors[row.vector][p]) : el("span", { class: "note" }, "The same text."))),
      all.controls.length > 0 && el("div", {}, el("h3", {}, "Random vectors of the same radius"), all.controls.slice(0, 4).map((list) => el("div", { class: "random" }, T.said(all.unsteered[p], list[p])))));
  };

  const steps = (number, tab) => {
    const order = T.order(), at = order.indexOf(number);
    if (order.length < 2) return [];
    const link = (by, rel, text) => { const to = order[(at + by + order.length) % order.length]; return el("a", { href: address(to, tab), rel }, text(to)); };
    return [link(-1, "prev", (to) => `‹ ${to}`), link(1, "next", (to) => `${to} ›`)];
  };
  const address = (number, tab) => `#v${number}${tab ? "/" + tab : ""}${T.at.get("p") ? "?p=" + T.at.get("p") : ""}`;

  /* At the prompt where it moves most, and how far random vectors do there. */
  const heading = (row, seen) => {
    const band = (data.bands || {})[seen && seen.prompt];
    return T.facts([["objective", T.num(row.objective)], ["|response|", T.num(row.response)],
      row.nearest >= 0 && ["nearest in effect", `#${row.nearest}, |cos| ${T.num(row.cosine)}`],
      seen && ["KL behind the prompt", T.num(seen.kl) + "\u00a0nats", band && `random ${T.num(band[0])} to ${T.num(band[1])}`],
      seen && seen.head && ["head most changed", `${seen.head} (${T.num(seen.head_change)})`],
      ...data.scores.map((name, i) => [name, T.num(row.scores[i])])]);
  };
  const seenOf = (row) => {
    const list = Object.keys(row.seen).map(Number), at = T.at.number("p"), prompt = list.includes(at) ? at : at === null ? list[0] : undefined;
    return prompt === undefined ? null : { prompt, ...row.seen[prompt] };
  };

  const picker = (row, redraw) => {
    const known = data.prompts.map((_, p) => p).filter((p) => row.seen[p] || (row.changed && row.changed[p] !== undefined));
    if (known.length < 2) return null;
    const chosen = T.at.number("p"), first = Object.keys(row.seen)[0];
    const box = el("select", { "aria-label": "Prompt inspected" }, el("option", { value: "" }, first === undefined ? "all prompts" : `prompt ${Number(first) + 1}; all texts`),
      known.map((p) => el("option", { value: p, selected: p === chosen }, `${p + 1}: ${data.prompts[p].slice(0, 90)}${row.seen[p] ? "" : " (texts only)"}`)));
    box.addEventListener("change", () => { T.at.set({ p: box.value }); redraw(); });
    return el("label", { class: "small" }, "prompt ", box);
  };

  /* Folded while nobody has looked: a label alone may be what a program read. */
  const note = (number) => {
    const said = () => { const { flag, label, comment } = T.notes.get(number); return [flag, label, comment && T.short(comment)].filter(Boolean).join(" · "); };
    const head = el("summary", {}), name = () => T.put(head, said() ? ["Note: ", el("span", { class: "said" }, said())] : "Add a note");
    name();
    // Found in the page when a note changes, and so forgotten with it.
    head.dataset.notes = number;
    head.refresh = name;
    const { flag, comment } = T.notes.get(number);
    return el("details", { class: "note-fold", open: !!(flag || comment) || T.at.get("note") !== null }, head, T.notes.widget(number));
  };

  T.vector = (root, overview, number, tab) => {
    data = overview;
    const row = data.rows.find((r) => r.vector === number);
    if (!row) { T.add(root, el("p", {}, `There is no vector ${number}.`)); return; }
    const list = tabs(row), wanted = T.vectorTabs.find((t) => t.name === tab), current = list.find((t) => t.name === tab) || (tab ? null : list[0]);
    const redraw = () => { T.put(root); T.vector(root, data, number, tab); };
    const bar = el("div", { class: "row no-print" }, T.backToList(), steps(number, tab), picker(row, redraw), T.compareWith && T.compareWith(row, data), T.tryLive && T.tryLive(number));
    T.add(root, bar,
      el("h1", { tabindex: "-1" }, `Vector ${number} `, T.notes.badge(number)),
      heading(row, seenOf(row)), note(number));
    if (!list.length) { T.add(root, el("p", { class: "note" }, "Nothing was measured of this vector on a prompt.")); return; }
    T.add(root, el("nav", { class: "tabs", "aria-label": "Views" }, list.map((t) => el("a", { href: address(number, t.name), "aria-current": t === current ? "page" : null }, t.title))));
    const body = root.appendChild(el("section", { "aria-label": current ? current.title : "View" }));
    if (!current) T.add(body, el("p", { class: "note" }, `There is no ${wanted ? T.quoted(wanted.title) : "such view"} of vector ${number}: it was not inspected. tl-steer report --vector ${number} adds it.`));
    else { const mine = ++drawing, part = el("div"); T.drawPanel(part, number, current.kind).then(() => { if (mine === drawing) T.add(body, part); }); T.add(body, part); }
    if (!Object.keys(row.seen).length) T.add(root, el("p", { class: "note" }, "This vector was not inspected, so there are no views of the model's inside: tl-steer report --vector adds them."));
    T.add(bar, T.printAll(root, number, list.filter((t) => t !== current)));
  };
})();
