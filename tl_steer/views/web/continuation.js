/* The text under a vector, token by token: which tokens hang on it, and what happened at each. */
(() => {
  const T = TlSteer, el = T.el;
  T.vectorTabs.push({ kind: "continuation", name: "generated", title: "Generated" });

  /* Beyond this many nats colours say no more: one token of twenty would make all others pale. */
  const MOST = 6;
  const share = (x, top) => (Number.isFinite(x) ? Math.max(-1, Math.min(1, x / top)) : x);
  const ratios = (after, before) => after.map((x, i) => T.value(x) - T.value(before[i]));
  const chance = (lp) => Math.exp(T.value(lp));

  const legend = (values) => {
    const most = T.most(values), top = Math.min(MOST, most || 1), end = most > top ? " and beyond" : "";
    const said = (sign) => `${sign}${top === MOST ? MOST : T.num(top)}${end}`;
    return [top, T.scale(`${said("−")}, less likely`, `${said("+")} nats, likelier under the vector`, true, T.UNDER_TEXT)];
  };

  const written = (tokens, ratio, top, label, options) => {
    const says = (i) => `${T.num(ratio[i], true)} nats`;
    const box = T.tokens(tokens, { share: (i) => share(ratio[i], top), says, ...options });
    box.setAttribute("aria-label", label);
    return box;
  };
  const rowsOf = (tokens, lp, ratio) => () => [
    ["token", "log-probability unsteered", "log-probability steered", "log-ratio (nats)"],
    ...tokens.map((text, i) => [text, T.value(lp[0][i]), T.value(lp[1][i]), ratio[i]]),
  ];
  const strongest = (ratio) =>
    ratio.reduce((best, x, i) => (x > ratio[best] || Number.isNaN(ratio[best]) ? i : best), 0);

  T.draw.continuation = (root, data) => {
    const ratio = ratios(data.lp[1], data.lp[0]), own = ratios(data.unsteered_lp[1], data.unsteered_lp[0]);
    const [top, scale] = legend(ratio.concat(own)), panel = el("div", { class: "card step", "aria-live": "polite" });
    const asked = T.at.number("g"), first = asked !== null && asked in data.tokens ? asked : strongest(ratio);
    const pick = (i) => { T.at.set({ g: i }); step(panel, data, ratio, i); };
    const text = (title, tokens, lp, values, options) => T.figure(title,
      el("div", {}, el("h3", {}, title), written(tokens, values, top, title, options)), rowsOf(tokens, lp, values));
    T.add(root,
      el("p", { class: "note" }, "Greedy text behind the prompt. Both models read it; a token's colour is the log of its probability under the ",
        "vector over the unsteered one, given what stands before it. Pick a token, or walk with the arrow keys."),
      text("Steered text", data.tokens, data.lp, ratio, { pick, picked: first }),
      text("Unsteered text, as the vector reads it", data.unsteered, data.unsteered_lp, own, {}),
      scale, panel);
    step(panel, data, ratio, first);
  };

  const step = (panel, data, ratio, i) => {
    const strong = (text) => el("b", { class: "num" }, text);
    const p = (run, model) => [strong(T.percent(chance(data.lp[run][i]))), ` ${model} (rank ${data.rank[run][i] + 1})`];
    T.put(panel,
      el("p", {}, T.word(data.tokens[i]), `, token ${i + 1} of ${data.tokens.length}: `, p(1, "under the vector"), ", ", p(0, "unsteered"),
        "; log-ratio ", strong(`${T.num(ratio[i], true)}\u00a0nats`),
        `. The two predictions are ${T.num(data.kl[i])}\u00a0nats apart (KL).`),
      el("div", { class: "split" }, alternatives(data, i), carried(data, i)), attended(data, i));
  };

  /* what else could have stood there, by either model */
  const alternatives = (data, i) => {
    const rows = data.likely[i].map(([word, ...lp]) => [word, ...lp.map(chance)]).sort((a, b) => b[2] - a[2]);
    const axis = T.oddsAxis(rows.flatMap(([, ...p]) => p)), number = (p) => el("td", { class: "num" }, T.percent(p));
    const line = ([word, before, after]) => el("tr", { class: word === data.tokens[i] ? "chosen" : null },
      el("td", {}, T.word(word)), number(before), number(after),
      el("td", { class: "wide-odds" }, T.dumbbell(axis, before, after, after < before ? "less" : "more")));
    const names = ["token", "unsteered", "steered", "probability, on log-odds"];
    const head = names.map((text, j) => el("th", { scope: "col", class: j % 3 ? "num" : null }, text));
    const marks = el("tr", {}, el("td", { colspan: 3 }), el("td", { class: "wide-odds" }, T.oddsMarks(axis)));
    const table = el("table", { class: "alternatives" }, el("thead", {}, el("tr", {}, head)), el("tbody", {}, rows.map(line), marks));
    return el("div", {}, el("h3", {}, "What else could stand there"),
      T.figure("alternatives", table, () => [names.slice(0, 3), ...rows]));
  };

  /* which components moved the written token's logit */
  const named = (stream, part, source) => {
    if (stream === 0) return "in front of block 0";
    if (part === 2) return stream - 1 === source ? "the vector itself" : `block ${stream - 1}, rest`;
    return `block ${stream - 1} ${part ? "MLP" : "attention"}`;
  };
  const components = (data, i) => {
    const all = data.direct[i].flatMap((layer, s) =>
      layer.map((x, k) => ({ name: named(s, k, data.source_layer), value: T.value(x) })));
    const ranked = all.filter((c) => Math.abs(c.value) > 1e-6).sort((a, b) => Math.abs(b.value) - Math.abs(a.value));
    const rest = ranked.slice(8), more = { name: `${rest.length} others`, value: rest.reduce((sum, c) => sum + c.value, 0) };
    return rest.length ? [...ranked.slice(0, 8), more] : ranked;
  };
  const carried = (data, i) => {
    const box = el("div", {}, el("h3", {}, "What carries it"));
    const none = "This model's last layers cannot be read, so nothing is attributed.";
    if (!data.direct) return T.add(box, el("p", { class: "note" }, none));
    const shown = components(data, i);
    const heads = data.by_head[i].slice(0, 4).map(([layer, head, value]) => ({ name: `head ${layer}.${head}`, value: T.value(value) }));
    const both = [...shown, ...heads], limit = T.most(both.map((c) => c.value));
    const bars = el("div", {}, T.bars(shown, { signed: true, limit }), heads.length > 0 && [
      el("p", { class: "note between" }, "Of what attention carries, the largest heads:"), T.bars(heads, { signed: true, limit })]);
    return T.add(box,
      el("p", { class: "note" }, `logit of ${T.quoted(data.tokens[i])} less that of ${T.quoted(data.against[i])} moves by `,
        el("b", { class: "num" }, T.num(data.moved[i], true)), "; of that, directly:"),
      T.figure("attribution", bars, () => [["component", "logits"], ...both.map((c) => [c.name, c.value])]));
  };

  /* where the token that predicts looks: the heads that changed most there, and the mean over all */
  const attended = (data, i) => {
    const box = el("div");
    const none = el("p", { class: "note" }, "This model shows no attention.");
    if (!data.attends) return T.add(box, el("h3", {}, "Attention"), none);
    const heads = data.heads[i].map(([layer, head, change], k) => ({ name: `${layer}.${head}`, change, k }));
    const known = heads.map((h) => h.name).concat("mean"), asked = T.at.get("h");
    let name = known.includes(asked) ? asked : known[0], run = T.at.get("w");
    if (!T.RUNS.includes(run)) run = T.RUNS[2];
    const button = (text, on, act) =>
      el("button", { type: "button", "aria-pressed": String(on), onclick: () => { act(); again(box, show); } }, text);
    const choose = (to) => () => { name = to; T.at.set({ h: name }); };
    const show = () => T.put(box, el("h3", {}, "Where the token in front of it looks"),
      el("div", { class: "buttons", role: "group", "aria-label": "Head" },
        heads.map((h) => button(`${h.name} (${T.num(h.change)} moved)`, name === h.name, choose(h.name))),
        button("mean of all heads", name === "mean", choose("mean"))),
      el("div", { class: "buttons", role: "group", "aria-label": "Which model" }, T.RUNS.map((text) =>
        button(text, run === text, () => { run = text; T.at.set({ w: text === T.RUNS[2] ? null : text }); }))),
      looks(data, i, heads.find((h) => h.name === name), run));
    show();
    return box;
  };
  /* Buttons are drawn anew, and the one in use is focused again. */
  const again = (box, show) => {
    const at = [...box.querySelectorAll("button")].indexOf(document.activeElement);
    show();
    if (at >= 0) box.querySelectorAll("button")[at].focus();
  };

  const ready = new WeakMap();
  const shares = (data) => {
    if (!ready.has(data)) ready.set(data, { rows: T.shares(data.rows), mean: T.shares(data.mean) });
    return ready.get(data);
  };
  const looks = (data, i, head, run) => {
    const front = data.prompt.length + i - 1, tokens = data.prompt.concat(data.tokens).slice(0, front + 1);
    const [before, after] = head ? shares(data).rows[i][head.k] : shares(data).mean[i];
    /* They came in steps of 1/255: what is less than that is no change. */
    const change = after.map((x, j) => (Math.abs(x - before[j]) < 0.005 ? 0 : x - before[j]));
    const values = { unsteered: before, steered: after, difference: change }[run].slice(0, front + 1);
    const top = T.most(values) || 1, two = run === T.RUNS[2];
    const box = T.tokens(tokens, {
      share: (j) => values[j] / top, mark: (j) => (j === front ? "front" : ""),
      says: (j) => `${T.quoted(tokens[j])}: ${T.percent(before[j])} unsteered, ${T.percent(after[j])} steered`,
    });
    box.setAttribute("aria-label", "Attention to the tokens before");
    const end = `${two ? "+" : ""}${T.percent(top)} of its attention; framed: the token that looks`;
    const scale = T.scale(two ? "−" + T.percent(top) : "0", end, two, T.UNDER_TEXT);
    const rows = () => [["token", ...T.RUNS], ...tokens.map((text, j) => [text, before[j], after[j], after[j] - before[j]])];
    return T.figure(`attention of ${head ? "head " + head.name : "all heads"}`,
      el("div", {}, el("div", { class: "attended" }, box), scale), rows);
  };
})();
