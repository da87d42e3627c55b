/* The residual stream: how the response grows, and where it was put in. */
(() => {
  const T = TlSteer, el = T.el;
  const UNLIKELY = 1e-4;
  const LENS = "The lens lists the tokens that rise most if the stream is read out at that depth; early layers often " +
    "read as noise. Grey: less likely than 1 in 10,000 even so.";
  const block = (s) => (s ? "after block " + (s - 1) : "before block 0");

  /* Words that the lens reads; those that the model would all but never say are grey. `likely` says where a
     word's probability stands. */
  const words = (list, likely) => list.map((row) => {
    const word = T.word(row[0]);
    if (T.value(row[likely]) < UNLIKELY) word.classList.add("unlikely");
    return [word, " "];
  });
  const BY = {
    probability: {
      title: "probability", likely: [2, 1],
      says: ([word, before, after]) => `${T.quoted(word)} ${T.percent(before)} → ${T.percent(after)}`,
    },
    logit: {
      title: "logit", likely: [2, 2],
      says: ([word, by, p]) => `${T.quoted(word)} ${T.num(by, true)}${Number.isNaN(T.value(p)) ? "" : ` (${T.percent(p)})`}`,
    },
  };

  /* One layer's words, with those that fall and all numbers on hover. */
  const reading = (lens, by, s, r, moved) => {
    const [up, down] = lens && moved ? lens[by].map((side) => side[s][r]) : [[], []];
    const line = el("td", { class: "lens" }, words(up, BY[by].likely[0]));
    if (up.length) T.tip(line, `rise: ${up.map(BY[by].says).join(", ")}\nfall: ${down.map(BY[by].says).join(", ")}`);
    return line;
  };

  /* Random vectors were measured as a share of the stream's norm, which is what it is times the norm here. */
  const banded = (data, s, i, relative) => {
    if (!data.band) return ["", ""];
    const times = relative ? 1 : T.value(data.response[s][i]) / T.value(data.share[s][i]);
    return data.band.map((end) => T.value(end[s][i]) * times);
  };

  const cells = (data, s, row, top, relative) => {
    const box = el("div", { class: "cells" }, row.map((v) => el("i", T.painted(T.value(v) / top, 1))));
    return T.tip(box, (event) => {
      const place = box.getBoundingClientRect();
      const i = Math.min(row.length - 1, Math.floor(((event.clientX - place.left) / place.width) * row.length));
      if (!(i >= 0)) return "";
      const [a, b] = data.bins[i], said = T.between(...banded(data, s, i, relative));
      const tokens = a === b ? `token ${a} ${T.quoted(data.tokens[a])}` : `tokens ${a} to ${b}`;
      return `${block(s)}, ${tokens}: ${T.num(row[i])}${said && ", " + said}`;
    });
  };

  const table = (data, state) => {
    const values = state.relative ? data.share : data.response, top = T.most(values.flat()) || 1;
    const at = data.read_at[state.reading], column = data.bins.findIndex(([a, b]) => a <= at && at <= b);
    const lens = state.lens(), names = [["block", "num"], ["tokens"], [`at ${at}`, "num"]];
    if (data.band) names.push(["random", "num hide-small"]);
    if (lens) names.push(["the lens reads", "lens"]);
    const rows = values.map((row, s) => {
      const [low, high] = banded(data, s, column, state.relative), known = T.between(low, high);
      const random = !known ? "–" : high === 0 ? "0" : `${T.num(low)} to ${T.num(high)}`;
      return el("tr", { class: s - 1 === data.source_layer ? "source" : null },
        el("td", { class: "num" }, s ? s - 1 : "in"),
        el("td", { class: "strip" }, cells(data, s, row, top, state.relative)),
        el("td", { class: "num" }, T.num(row[column])),
        data.band && el("td", { class: "num hide-small" }, random),
        lens && reading(lens, state.by, s, state.reading, T.value(data.response[s][column]) > 0));
    });
    const head = el("thead", {}, el("tr", {}, names.map(([name, kind]) => el("th", { class: kind }, name))));
    const whole = el("table", { class: "stream" }, head, el("tbody", {}, rows));
    return [T.figure("Response", whole, () => asRows(data, values)),
      T.scale("0", T.num(top) + (state.relative ? " of the norm" : "")), T.oddities(values.flat())];
  };
  const asRows = (data, values) => [["block", ...data.bins.map(([a]) => data.tokens[a])],
    ...values.map((row, s) => [s ? s - 1 : "in", ...row.map(T.value)])];

  const toggle = (text, on, act) => el("button", { type: "button", "aria-pressed": String(on), onclick: act }, text);
  const picker = (data, state, show) => {
    const box = el("select", { "aria-label": "Token at which the lens is read" },
      data.read_at.map((at, r) => el("option", { value: r, selected: r === state.reading }, `${at}: ${T.quoted(data.tokens[at])}`)));
    box.addEventListener("change", () => {
      state.reading = Number(box.value);
      T.at.set({ t: data.read_at[state.reading] });
      show();
    });
    return box;
  };
  const bar = (data, state, show) => {
    const note = (text) => el("span", { class: "note" }, text);
    const relative = (text, on) => toggle(text, state.relative === on, () => { state.relative = on; show(); });
    const order = (by) => toggle(BY[by].title, state.by === by, () => {
      state.by = by;
      T.at.set({ lens: by === "logit" ? by : null });
      show();
    });
    return [
      relative("share of the stream's norm", true), relative("norm", false),
      state.lens() && [note("lens behind token"), picker(data, state, show)],
      state.lens() && data.lens.probability && [note("words by"), Object.keys(BY).map(order)],
    ];
  };

  T.draw.residual_response = (root, data) => {
    const asked = data.read_at.indexOf(T.at.number("t")), some = data.lens.logit.flat(2).some((list) => list.length);
    const state = {
      relative: true, reading: asked >= 0 ? asked : data.read_at.length - 1,
      by: data.lens.probability && T.at.get("lens") !== "logit" ? "probability" : "logit",
      lens: () => (some ? data.lens : null),
    };
    const body = el("div", { class: "wide" }), line = el("div", { class: "row" });
    T.add(root, el("p", { class: "note" }, "Each row is the residual stream leaving a block; each column a token. ",
      "Colour: the norm of what steering changed there. ", some && LENS), T.controlled(data.control), line, body);
    const show = () => { T.put(line, bar(data, state, show)); T.put(body, table(data, state)); };
    show();
  };

  T.draw.steered_tokens = (root, data) => {
    const top = T.most(data.share) || 1, count = data.steered.filter(Boolean).length;
    const added = (i) => `norm ${T.num(data.added[i])}, ${T.num(data.share[i])} of the activation's${T.beside(data.band, i)}`;
    const tokens = T.tokens(data.tokens, {
      share: (i) => T.value(data.share[i]) / top, mark: (i) => (data.steered[i] ? "steered" : ""),
      says: (i) => (data.steered[i] ? added(i) : "not steered"),
    });
    const rows = () => [["token", "steered", "norm added", "share"], ...data.tokens.map((t, i) =>
      [t, data.steered[i] ? "yes" : "no", T.value(data.added[i]), T.value(data.share[i])])];
    T.add(root,
      el("p", { class: "note" }, `Added at ${count} of ${data.tokens.length} tokens (underlined), at ${data.source}. `,
        "Colour: the norm of what was added, over the norm of the activation it met."),
      T.controlled(data.control), T.figure("Tokens steered", tokens, rows),
      T.scale("0", T.num(top), false, T.UNDER_TEXT));
  };
})();
