/* The text under a vector, token by token: which tokens hang on it, and what happened at each. */
(() => {
  const T = TlSteer, el = T.el;
  T.vectorTabs.push({ kind: "continuation", name: "generated", title: "Generated" });

  /* Beyond this many nats colours say no more: one token of twenty would make all others pale. */
  const MOST = 6;
  const limit = (values) => Math.min(MOST, T.most(values) || 1);
  const mark = (x) => (Number.isNaN(x) ? "missing" : Number.isFinite(x) ? "" : x > 0 ? "infinite" : "infinite negative");
  const share = (x, top) => (Number.isNaN(x) ? 0 : Math.max(-1, Math.min(1, x / top)));
  const ratios = (after, before) => after.map((x, i) => {
    const a = T.value(x), b = T.value(before[i]);
    return a === b && !Number.isFinite(a) ? NaN : a - b;
  });

  /* The legend's colours are made as the tokens' are. */
  const legend = (top, most, odd) => {
    const ramp = el("i", { class: "ramp" });
    const stops = Array.from({ length: 9 }, (_, i) => T.tint(i / 4 - 1));
    ramp.style.background = `linear-gradient(90deg, ${stops.join(", ")})`;
    const more = most > top ? " and beyond" : "";
    return el("div", { class: "ratio-scale" },
      el("span", {}, `less likely: ${T.num(-top)}${more}`), ramp, el("span", {}, `+${T.num(top)}${more} nats: likelier under the vector`),
      odd.some((x) => Math.abs(x) === Infinity) && el("span", {}, el("i", { class: "infinite" }, "∞"), "of probability 0 in one model"),
      odd.some(Number.isNaN) && el("span", {}, el("i", { class: "missing" }), "not measured"));
  };

  const written = (tokens, ratio, top, label, options) => {
    const box = T.tokens(tokens, {
      share: (i) => share(ratio[i], top), mark: (i) => mark(ratio[i]),
      says: (i) => `${T.num(ratio[i], true)} nats`, ...options,
    });
    box.classList.add("said-tokens");
    box.setAttribute("aria-label", label);
    return box;
  };

  const rowsOf = (tokens, lp, ratio) => [
    ["token", "log-probability unsteered", "log-probability steered", "log-ratio (nats)"],
    ...tokens.map((text, i) => [text, T.value(lp[0][i]), T.value(lp[1][i]), ratio[i]]),
  ];

  T.draw.continuation = (root, data) => {
    const ratio = ratios(data.lp[1], data.lp[0]), own = ratios(data.unsteered_lp[1], data.unsteered_lp[0]);
    const every = ratio.concat(own), top = limit(every), panel = el("div", { class: "card step", "aria-live": "polite" });
    const asked = T.at.number("g"), first = asked !== null && data.tokens[asked] !== undefined ? asked : strongest(ratio);
    const pick = (i) => { T.at.set({ g: i }); step(panel, data, ratio, i); };
    T.add(root,
      el("p", { class: "note" }, "Greedy text behind the prompt. Both models read the steered text; a token's colour is the log of its probability under the vector over its unsteered one, given all that stands before it. Pick a token, or walk with the arrow keys."),
      legend(top, T.most(every), every),
      T.figure("text under the vector", el("div", {}, el("h3", {}, "Steered"),
        written(data.tokens, ratio, top, "Tokens of the steered text", { pick, picked: first })), () => rowsOf(data.tokens, data.lp, ratio)),
      T.figure("unsteered text", el("div", {}, el("h3", {}, "Unsteered, and what the vector thinks of it"),
        written(data.unsteered, own, top, "Tokens of the unsteered text", {})), () => rowsOf(data.unsteered, data.unsteered_lp, own)),
      panel);
    step(panel, data, ratio, first);
  };
  const strongest = (ratio) => {
    let best = 0;
    ratio.forEach((x, i) => { if (x > ratio[best] || Number.isNaN(ratio[best])) best = i; });
    return best;
  };

  const step = (panel, data, ratio, i) => {
    const p = (run) => T.percent(Math.exp(T.value(data.lp[run][i]))), rank = (run) => data.rank[run][i] + 1;
    T.put(panel,
      el("p", {}, T.word(data.tokens[i]), ` token ${i + 1} of ${data.tokens.length}: `, el("b", { class: "num" }, p(1)), ` under the vector (rank ${rank(1)}), `,
        el("b", { class: "num" }, p(0)), ` unsteered (rank ${rank(0)}); log-ratio `, el("b", { class: "num" }, `${T.num(ratio[i], true)} nats`),
        `. The two predictions are ${T.num(data.kl[i])} nats apart (KL).`),
      el("div", { class: "split" }, alternatives(data, i), carried(data, i)), attended(data, i));
  };

  /* what else could have stood there, on an axis of log-odds */
  const odds = (lp) => {
    const p = Math.exp(T.value(lp));
    return Math.max(-9, Math.min(7, Math.log(p) - Math.log1p(-Math.min(p, 1 - 1e-9))));
  };
  const across = (lp) => 6 + ((odds(lp) + 9) / 16) * 188;
  const dumbbell = (before, after) => {
    if (Number.isNaN(T.value(before)) || Number.isNaN(T.value(after))) return "–";
    const kind = T.value(after) < T.value(before) ? "less" : "more";
    return T.svg("svg", { viewBox: "0 0 200 16", preserveAspectRatio: "none", "aria-hidden": "true" },
      [0.001, 0.01, 0.1, 0.5, 0.9].map((q) => T.svg("line", { class: "axis", x1: across(Math.log(q)), x2: across(Math.log(q)), y1: 0, y2: 16 })),
      T.svg("line", { class: kind, x1: across(before), x2: across(after), y1: 8, y2: 8 }),
      T.svg("circle", { class: "fill-base", cx: across(before), cy: 8, r: 3.5 }), T.svg("circle", { class: "fill-" + kind, cx: across(after), cy: 8, r: 4.5 }));
  };
  const axis = () => T.svg("svg", { viewBox: "0 0 200 16", "aria-hidden": "true" },
    [[0.001, "0.1 %"], [0.01, "1 %"], [0.1, "10 %"], [0.5, "50"], [0.9, "90"]].map(([q, text]) =>
      T.svg("text", { x: across(Math.log(q)), y: 12, "text-anchor": "middle", style: { fontSize: "9px" } }, text)));

  const alternatives = (data, i) => {
    const rows = [...data.likely[i]].sort((a, b) => T.value(b[2]) - T.value(a[2]));
    const p = (lp) => T.percent(Math.exp(T.value(lp)));
    const line = ([word, before, after]) => el("tr", { class: word === data.tokens[i] ? "chosen" : null },
      el("td", {}, T.word(word)), el("td", { class: "num" }, p(before)), el("td", { class: "num" }, p(after)), el("td", {}, dumbbell(before, after)));
    const head = ["token", "unsteered", "steered"].map((text, j) => el("th", { scope: "col", class: j ? "num" : null }, text));
    const table = el("table", { class: "alternatives" }, el("thead", {}, el("tr", {}, head, el("th", { "aria-label": "probability, as log-odds" }, axis()))),
      el("tbody", {}, rows.map(line)));
    const values = () => [["token", "probability unsteered", "probability steered"], ...rows.map(([word, b, a]) => [word, Math.exp(T.value(b)), Math.exp(T.value(a))])];
    return el("div", {}, el("h3", {}, "What else could stand there"), T.figure("alternatives", table, values));
  };

  /* which components moved the written token's logit */
  const named = (stream, part, source) => (stream === 0 ? "in front of block 0"
    : part === 2 ? (stream - 1 === source ? "the vector itself" : `block ${stream - 1}, rest`) : `block ${stream - 1} ${part ? "MLP" : "attention"}`);
  const carried = (data, i) => {
    const box = el("div", {}, el("h3", {}, "What carries it"));
    if (!data.direct) return T.add(box, el("p", { class: "note" }, "This model's last layers cannot be read, so nothing is attributed."));
    const all = data.direct[i].flatMap((layer, s) => layer.map((x, k) => ({ name: named(s, k, data.source_layer), value: T.value(x) })));
    const ranked = all.filter((c) => Math.abs(c.value) > 1e-6).sort((a, b) => Math.abs(b.value) - Math.abs(a.value));
    const rest = ranked.slice(8), shown = ranked.slice(0, 8);
    if (rest.length) shown.push({ name: `${rest.length} others`, value: rest.reduce((sum, c) => sum + c.value, 0) });
    const heads = data.by_head[i].slice(0, 4).map(([layer, head, value]) => ({ name: `head ${layer}.${head}`, value: T.value(value) }));
    const limit = T.most([...shown, ...heads].map((c) => c.value));
    const rows = () => [["component", "logits"], ...[...shown, ...heads].map((c) => [c.name, c.value])];
    return T.add(box,
      el("p", { class: "note" }, `logit of ${T.quoted(data.tokens[i])} less logit of ${T.quoted(data.against[i])} moves by `, el("b", { class: "num" }, T.num(data.moved[i], true))),
      T.figure("attribution", el("div", {}, T.bars(shown, { signed: true, limit }),
        heads.length > 0 && el("p", { class: "note", style: { margin: "10px 0 4px" } }, "Of attention, through single heads:"), heads.length > 0 && T.bars(heads, { signed: true, limit })), rows));
  };

  /* where the token that predicts looks: mean over heads, and the heads that changed most there */
  const attended = (data, i) => {
    const box = el("div");
    if (!data.attends) return T.add(box, el("h3", {}, "Attention"), el("p", { class: "note" }, "This model shows no attention."));
    const heads = data.heads[i].map(([layer, head, change], k) => ({ name: `${layer}.${head}`, change, k }));
    const asked = T.at.get("h"), has = heads.some((h) => h.name === asked);
    let name = has || asked === "mean" ? asked : heads.length ? heads[0].name : "mean", run = T.at.get("hd") || "difference";
    const show = () => {
      const head = heads.find((h) => h.name === name), both = (head ? unpacked(data, "rows")[i][head.k] : unpacked(data, "mean")[i]);
      const button = (text, on, act) => el("button", { type: "button", "aria-pressed": String(on), onclick: act }, text);
      const choose = (changes) => () => { T.at.set(changes); if (changes.h) name = changes.h; if (changes.hd) run = changes.hd; const at = place(box); show(); at(); };
      T.put(box, el("h3", {}, "Where the token in front looks"),
        el("div", { class: "buttons", role: "group", "aria-label": "Head" }, heads.map((h) => button(`${h.name} (${T.num(h.change)} moved)`, name === h.name, choose({ h: h.name }))),
          button("mean of all heads", name === "mean", choose({ h: "mean" }))),
        el("div", { class: "buttons", role: "group", "aria-label": "Which" }, ["unsteered", "steered", "difference"].map((text) => button(text, run === text, choose({ hd: text })))),
        looks(data, i, both, run, name));
    };
    show();
    return box;
  };
  /* What was focused is focused again when buttons are drawn anew. */
  const place = (box) => {
    const at = [...box.querySelectorAll("button")].indexOf(document.activeElement);
    return () => { if (at >= 0) box.querySelectorAll("button")[at].focus(); };
  };
  const ready = new WeakMap();
  const unpacked = (data, name) => {
    const made = ready.get(data) || {};
    made[name] = made[name] || T.shares(data[name]);
    ready.set(data, made);
    return made[name];
  };

  const looks = (data, i, [before, after], run, name) => {
    const n = data.prompt.length + i, tokens = data.prompt.concat(data.tokens).slice(0, n);
    const values = (run === "unsteered" ? before : run === "steered" ? after : after.map((x, j) => x - before[j])).slice(0, n);
    const top = Math.max(T.most(values), 0.01);
    const box = T.tokens(tokens, {
      share: (j) => values[j] / top, mark: (j) => (j === n - 1 ? "steered" : ""),
      says: (j) => `${T.quoted(tokens[j])}: ${T.percent(before[j])} unsteered, ${T.percent(after[j])} steered`,
    });
    const ramp = el("i", { class: "ramp" }), two = run === "difference";
    ramp.style.background = `linear-gradient(90deg, ${(two ? [-1, 0, 1] : [0, 1]).map((x) => T.tint(x)).join(", ")})`;
    const scale = el("div", { class: "ratio-scale" }, two ? `−${T.percent(top)}` : "0", ramp, `${two ? "+" : ""}${T.percent(top)} of its attention`);
    const rows = () => [["token", "unsteered", "steered"], ...tokens.map((text, j) => [text, before[j], after[j]])];
    return T.figure(`attention of ${name}`, el("div", {}, el("div", { class: "attended" }, box), scale), rows);
  };
})();
