/* Two of them side by side: two vectors, a vector and a random one, its opposite, or one vector on two
   prompts (#v3?vs=4, #v3?vs=r0, #v3?vs=-1, #v3?vs=p1). One cursor walks the tokens of both. */
(() => {
  const T = TlSteer, el = T.el;
  const MOST = 300; // vectors offered by name
  let data = null;

  const on = (name, kind) => data.prompts.map((_, p) => p).filter((p) => T.has(`${name}.${kind}.${p}`));
  const shown = (name) => {
    const list = on(name, "logit_change"), at = T.at.number("p");
    return list.includes(at) ? at : at === null && list.length ? list[0] : null;
  };
  const row = (vector) => data.rows.find((r) => r.vector === vector);
  const randoms = () => Array.from({ length: 8 }, (_, i) => "r" + i).filter((name) => on(name, "logit_change").length);

  /* Prompt on which the opposite of a vector was measured, as the strength of -1. */
  const opposed = (number) => {
    const list = on("v" + number, "strengths"), at = T.at.number("p");
    return list.includes(at) ? at : at === null && list.length ? list[0] : null;
  };

  /* What an address names: a vector, a random one, or the same vector on another prompt. */
  const side = (number, said) => {
    const own = { name: "v" + number, vector: number, prompt: shown("v" + number), title: `Vector ${number}` };
    if (said === null) return own;
    if (said === "-1") return opposed(number) === null ? null : { name: "v" + number, vector: number, prompt: opposed(number), opposite: true, title: `The opposite of vector ${number}` };
    const random = /^r(\d)$/.exec(said), other = /^p(\d+)$/.exec(said);
    if (random) return { name: said, random: Number(random[1]), prompt: own.prompt, title: `Random vector ${random[1]}` };
    if (other && data.prompts[Number(other[1])] !== undefined) return { ...own, prompt: Number(other[1]), title: `Vector ${number} on prompt ${Number(other[1]) + 1}` };
    const vector = /^\d+$/.test(said) ? row(Number(said)) : null;
    return vector ? { name: "v" + vector.vector, vector: vector.vector, prompt: shown("v" + vector.vector), title: `Vector ${vector.vector}` } : null;
  };

  const choices = (own, chosen) => {
    const option = (value, text) => el("option", { value, selected: value === chosen }, text);
    const prompts = on("v" + own.vector, "logit_change").filter((p) => p !== shown("v" + own.vector));
    const others = data.rows.filter((r) => r.vector !== own.vector).slice(0, MOST);
    return el("select", { "aria-label": "Compare with", onchange: (event) => { location.hash = `v${own.vector}${event.target.value ? "?vs=" + event.target.value : ""}${T.at.get("p") && event.target.value ? "&p=" + T.at.get("p") : ""}`; } },
      option("", chosen === null ? "compare with…" : "nothing"),
      own.nearest >= 0 && el("optgroup", { label: "Most alike in effect" }, option(String(own.nearest), `vector ${own.nearest}, |cos| ${T.num(own.cosine)}`)),
      randoms().length > 0 && el("optgroup", { label: "Control" }, randoms().map((name) => option(name, `random vector ${name.slice(1)}`))),
      (prompts.length > 0 || opposed(own.vector) !== null) && el("optgroup", { label: "The same vector" }, opposed(own.vector) !== null && option("-1", "its opposite"), prompts.map((p) => option("p" + p, `on prompt ${p + 1}`))),
      el("optgroup", { label: "Other vectors" }, others.map((r) => option(String(r.vector), `vector ${r.vector}${r.label ? " " + T.short(r.label) : ""}`))));
  };
  T.compareWith = (own, overview) => { data = overview; return data.rows.length > 1 || data.prompts.length > 1 ? choices(own, null) : null; };

  T.compare = async (root, overview, number, said) => {
    data = overview;
    const own = row(number), a = own && side(number, null), b = own && side(number, said);
    if (!own || !b) { T.add(root, T.backToList(), el("p", {}, own ? `There is nothing called ${T.quoted(said)} to compare vector ${number} with.` : `There is no vector ${number}.`)); return; }
    T.add(root, el("div", { class: "row no-print" }, el("a", { href: "#v" + number }, `← vector ${number}`), b.vector !== undefined && b.vector !== number && el("a", { href: "#v" + b.vector }, `vector ${b.vector} →`), choices(own, said)),
      el("h1", { tabindex: "-1" }, a.title, el("span", { class: "versus" }, " and "), b.title),
      el("p", { class: "key" }, el("i", { class: "side-a" }), a.title, el("i", { class: "side-b" }), b.title));
    if (b.opposite && !(await opposite(b))) { T.add(root, el("p", { class: "note" }, `The opposite of vector ${number} was not measured.`)); return; }
    await texts(root, a, b);
    if (!root.isConnected) return;
    const [first, second] = await Promise.all([a, b].map((s) => panels(s)));
    if (!first.tokens || !second.tokens) { T.add(root, el("p", { class: "note" }, `${(first.tokens ? b : a).title} was not inspected on this prompt, so only texts can be compared.`)); return; }
    if (root.isConnected) inside(root, { ...a, ...first }, { ...b, ...second });
  };
  /* Of the opposite there is what the strength of -1 has: a text, KL, and the likeliest next tokens. */
  const opposite = async (s) => {
    const found = (await T.read(`${s.name}.strengths.${s.prompt}`)).data, step = found.steps.find((one) => one.scale === -1);
    if (!step) return false;
    const last = found.tokens.length - 1, top = step.top.map(([word, p, before]) => [word, before, p]);
    const behind = (rows) => found.tokens.map((_, t) => (t === last ? rows : []));
    s.text = step.text;
    s.tokens = { tokens: found.tokens, kl: step.kl, gained: behind(top), lost: behind([]) };
    return true;
  };
  const panels = async (s) => {
    if (s.opposite) return { tokens: s.tokens, heads: null, response: null };
    const read = (kind) => (s.prompt === null ? null : T.read(`${s.name}.${kind}.${s.prompt}`).then((panel) => panel && panel.data));
    const [tokens, heads, response] = await Promise.all(["logit_change", "attention_change", "residual_response"].map(read));
    return { tokens, heads, response };
  };

  /* texts: what each has that the unsteered one lacks, and what of that one each leaves out */
  const text = (all, s, p) => (s.opposite ? (p === s.prompt ? s.text : undefined) : s.random !== undefined ? (all.controls[s.random] || [])[p] : (all.vectors[s.vector] || [])[p]);
  const texts = async (root, a, b) => {
    const all = await T.texts();
    if (!all || !all.unsteered.length) return;
    const same = a.name !== b.name || b.opposite, prompts = same ? all.unsteered.map((_, p) => p).filter((p) => T.at.number("p") === null || p === T.at.number("p")) : [a.prompt];
    for (const p of prompts) {
      const q = same ? p : b.prompt, base = all.unsteered[p], one = text(all, a, p), two = text(all, b, q);
      if (one === undefined || two === undefined || base === undefined) continue;
      T.add(root, el("p", { class: "note" }, "Prompt: ", el("span", { class: "said" }, data.prompts[p])),
        el("div", { class: "compare three" }, same && el("div", { class: "card" }, el("h3", {}, "Unsteered"), left(base, one, two)), said(a.title, "side-a", base, one, same ? two : ""), said(b.title, "side-b", same ? base : all.unsteered[q], two, same ? one : "")));
    }
  };
  const said = (title, kind, base, own, other) => {
    const words = new Set(T.diff(base, other).filter(([, k]) => k === "new").flatMap(([t]) => t.match(/\S+/g) || []));
    const piece = (word) => (words.has(word) ? el("mark", { class: "both", title: "in both, and not in the unsteered text" }, word) : el("mark", {}, word));
    return el("div", { class: "card " + kind }, el("h3", {}, title), own === base ? el("span", { class: "note" }, "The unsteered text.") : el("span", { class: "said" }, T.diff(base, own).map(([t, k]) =>
      k === "gone" ? null : k === "same" ? t : (t.match(/\s+|\S+/g) || []).map((w) => (w.trim() ? piece(w) : w)))));
  };
  /* The unsteered text, with what is gone in one or both struck out. */
  const left = (base, one, two) => {
    const words = base.match(/\s+|\S+/g) || [], gone = [one, two].map((after) => T.diff(base, after).filter(([, k]) => k !== "new").flatMap(([t, k]) => (t.match(/\s+|\S+/g) || []).map(() => k === "gone")));
    return el("span", { class: "said" }, words.map((word, i) => {
      const a = gone[0][i], b = gone[1][i];
      return word.trim() && (a || b) ? el("del", { class: a && b ? "gone-both" : a ? "gone-a" : "gone-b", title: a && b ? "gone in both" : `gone in the ${a ? "first" : "second"} alone` }, word) : word;
    }));
  };

  /* inside the model: one cursor, one scale */
  const inside = (root, a, b) => {
    const together = a.tokens.tokens.join("\u0000") === b.tokens.tokens.join("\u0000"), top = T.most([...a.tokens.kl, ...b.tokens.kl]) || 1;
    const at = [a, b].map((s) => s.tokens.tokens.length - 1), asked = T.at.number("t");
    if (asked !== null) at.forEach((_, i) => { at[i] = Math.max(0, Math.min(at[i], asked)); });
    const words = el("div", { "aria-live": "polite" }), curves = el("div"), strips = el("div");
    const show = () => { T.put(words, merged(a, b, at)); if (a.response && b.response) T.put(curves, response(a, b, at)); };
    const strip = (s, i) => el("div", { class: "strip " + (i ? "side-b" : "side-a") }, el("h3", {}, s.title), T.tokens(s.tokens.tokens, {
      share: (t) => T.value(s.tokens.kl[t]) / top, says: (t) => `${T.num(s.tokens.kl[t])} nats`, picked: at[i],
      pick: (t) => { at[i] = t; if (together) { at[1 - i] = t; follow(1 - i, t); } T.at.set({ t }); show(); } }));
    const follow = (i, t) => strips.children[i].querySelectorAll(".token").forEach((node, j) => { node.setAttribute("aria-pressed", String(j === t)); node.tabIndex = j === t ? 0 : -1; });
    T.add(strips, strip(a, 0), strip(b, 1));
    T.add(root, el("h2", { class: "later" }, "Next tokens"), el("p", { class: "note" }, "KL from the unsteered model, one scale for both. ", together ? "Pick a token in either row." : "The prompts differ, so each row has its own cursor."), strips, T.scale("0", `${T.num(top)}\u00a0nats`, false, T.UNDER_TEXT), words);
    if (a.response && b.response) T.add(root, el("h2", { class: "later" }, "Response through the layers"), curves);
    if (a.heads && b.heads) heads(root, a, b);
    show();
  };

  /* every token that either gains or loses, on one axis of log-odds */
  const merged = (a, b, at) => {
    const of = (s, t) => new Map([...(s.tokens.gained[t] || []), ...(s.tokens.lost[t] || [])].map(([word, before, after]) => [word, [T.value(before), T.value(after)]]));
    const first = of(a, at[0]), second = of(b, at[1]);
    const rows = [...new Set([...first.keys(), ...second.keys()])].map((word) => {
      const x = first.get(word), y = second.get(word);
      return { word, before: (x || y)[0], a: x ? x[1] : NaN, b: y ? y[1] : NaN, moved: Math.max(...[x, y].filter(Boolean).map(([p, q]) => Math.abs(q - p))) };
    }).sort((x, y) => y.moved - x.moved).slice(0, 16);
    if (!rows.length) return el("p", { class: "note" }, "Gains and losses are listed for the tokens that change most; not for this one.");
    const axis = T.oddsAxis(rows.flatMap((r) => [r.before, r.a, r.b])), x = (p) => 6 + axis.place(p) * 2.28;
    const line = (r) => T.svg("svg", { viewBox: "0 0 240 16", width: 240, height: 16, role: "img", "aria-label": `${r.word}: ${T.percent(r.before)} unsteered, ${T.percent(r.a)} and ${T.percent(r.b)}` },
      T.svg("line", { class: "axis", x1: 0, x2: 240, y1: 8, y2: 8 }),
      [[0, "more", r.a], [1, "less", r.b]].filter(([, , p]) => Number.isFinite(p)).map(([i, kind, p]) => [T.svg("line", { class: kind, "stroke-width": 1.5, x1: x(r.before), x2: x(p), y1: i ? 10 : 6, y2: i ? 10 : 6 }), i ? T.svg("rect", { class: "fill-less", x: x(p) - 3.5, y: 6.5, width: 7, height: 7 }) : T.svg("circle", { class: "fill-more", cx: x(p), cy: 6, r: 4 })]),
      T.svg("circle", { class: "fill-base", cx: x(r.before), cy: 8, r: 3 }));
    const table = el("table", { class: "merged" }, el("thead", {}, el("tr", {}, ["token", "unsteered", "first", "second", "log-odds"].map((name, i) => el("th", { scope: "col", class: i > 0 && i < 4 ? "num" : null }, name)))),
      el("tbody", {}, rows.map((r) => el("tr", {}, el("td", {}, T.word(r.word)), [r.before, r.a, r.b].map((p) => el("td", { class: "num" }, T.percent(p))), el("td", {}, line(r))))));
    return [el("h3", { class: "behind" }, "Gained and lost behind ", T.word(a.tokens.tokens[at[0]]), at[0] === at[1] && a.tokens.tokens[at[0]] === b.tokens.tokens[at[1]] ? "" : [" and ", T.word(b.tokens.tokens[at[1]])]),
      T.figure("Gained and lost", table, () => [["token", "unsteered", "first", "second"], ...rows.map((r) => [r.word, r.before, r.a, r.b])])];
  };

  /* norms of the response behind the token under the cursor, block by block */
  const response = (a, b, at) => {
    const column = (s, t) => { const i = s.response.bins.findIndex(([from, to]) => from <= t && t <= to); return s.response.response.map((line) => T.value(line[i])); };
    const curves = [column(a, at[0]), column(b, at[1])], n = curves[0].length, block = (i) => (i ? i - 1 : "in");
    const plot = T.plot({ label: "Norm of the response after each block", width: T.room(760), height: 220,
      x: { low: 0, high: Math.max(1, n - 1), says: block }, y: { low: 0, high: T.most(curves.flat()) || 1 } });
    curves.forEach((values, k) => {
      plot.line(values.map((v, i) => [i, v]), k ? "less dash" : "more");
      values.forEach((v, i) => Number.isNaN(v) || T.tip(plot.dot([i, v], k ? "fill-less" : "fill-more", 2.5),
        `${k ? b.title : a.title}, ${i ? "after block " + (i - 1) : "before block 0"}: ${T.num(v)}`));
    });
    return T.figure("Response", plot.node, () => [["after block", a.title, b.title], ...curves[0].map((v, i) => [block(i), v, curves[1][i]])]);
  };

  const heads = (root, a, b) => {
    const across = (change) => change[0].map((_, head) => change.map((layer) => T.value(layer[head])));
    const [one, two] = [across(a.heads.change), across(b.heads.change)], top = T.most([...one, ...two].flat()) || 1;
    const less = one.map((line, head) => line.map((v, layer) => v - two[head][layer]));
    const grids = [];
    const grid = (title, values, limit, signed) => {
      const made = T.grid(values, {
        limit, signed, width: 400, least: 6, label: `${title}: heads down, layers across`,
        columns: { title: "layer →" }, rows: { title: "head ↓" },
        says: (layer, head, v) => `head ${layer}.${head}: ${T.num(v, signed)}`,
        over: (layer, head) => grids.forEach((other) => { if (other !== made) other.frame(layer, head); }),
      });
      grids.push(made);
      const rows = () => [["head", "layer", "value"], ...values.flatMap((line, head) => line.map((v, layer) => [head, layer, v]))];
      return el("div", {}, el("h3", {}, title), T.figure(title, made.node, rows));
    };
    T.add(root, el("h2", { class: "later" }, "Attention that moves"), el("p", { class: "note" }, "The share of each head's attention that moved."),
      el("div", { class: "split" }, grid(a.title, one, top), grid(b.title, two, top), grid(`${a.title} less ${b.title.toLowerCase()}`, less, T.most(less.flat()) || 1, true)));
  };
})();
