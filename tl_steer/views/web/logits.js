/* Next tokens: where they change, which come and go, and which component does it. */
(() => {
  const T = TlSteer, el = T.el;

  /* Probabilities on an axis of log-odds: from 1 to 2 % is as far as from 98 to 99 %. It ends at marks
     that hold them all. */
  const MARKS = [1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999];
  const odds = (p) => Math.log(p / (1 - p));
  T.oddsAxis = (values) => {
    const known = values.map(T.value).filter(Number.isFinite);
    const low = MARKS.filter((m) => m <= Math.min(...known, 0.5)).pop() || MARKS[0];
    const high = MARKS.find((m) => m >= Math.max(...known, 0.5)) || MARKS[MARKS.length - 1];
    const marks = MARKS.filter((m) => m >= low && m <= high);
    const place = (p) => ((odds(Math.min(high, Math.max(low, p))) - odds(low)) / (odds(high) - odds(low) || 1)) * 100;
    return { marks, place };
  };
  const share = (p) => `${Number((100 * p).toPrecision(4))}\u00a0%`;

  /* from the unsteered probability (grey) to the steered one */
  T.dumbbell = (axis, before, after, kind) => {
    const [a, b] = [before, after].map((p) => axis.place(T.value(p))), at = (x) => ({ left: x + "%" });
    if (Number.isNaN(a + b)) return el("span", { class: "odds missing" }, "–");
    return el("span", { class: "odds", "aria-hidden": "true" },
      axis.marks.map((m) => el("i", { class: "mark", style: at(axis.place(m)) })),
      el("i", { class: "way k-" + kind, style: { left: Math.min(a, b) + "%", width: Math.abs(b - a) + "%" } }),
      el("i", { class: "end k-base", style: at(a) }), el("i", { class: "end k-" + kind, style: at(b) }));
  };
  T.oddsMarks = (axis) => {
    const few = axis.marks.filter((_, i) => axis.marks.length < 5 || i % 2 === (axis.marks.length - 1) % 2);
    const mark = (m) => el("i", { style: { left: axis.place(m) + "%" } }, share(m));
    return el("span", { class: "odds marks", "aria-hidden": "true" }, few.map(mark));
  };

  const moves = (title, rows, kind, axis) => {
    const head = el("tr", {}, el("td", { colspan: 4 }), el("td", {}, T.oddsMarks(axis)));
    const body = rows.map(([word, before, after]) => el("tr", {},
      el("td", {}, T.word(word)), el("td", { class: "num" }, T.percent(before)), el("td", {}, "→"),
      el("td", { class: "num" }, T.percent(after)), el("td", { class: "wide-odds" }, T.dumbbell(axis, before, after, kind))));
    const table = el("table", { class: "plain moves" }, el("tbody", {}, body, head));
    const asRows = () => [["token", "unsteered", "steered"], ...rows.map(([word, ...p]) => [word, ...p.map(T.value)])];
    return el("div", {}, el("h3", {}, title), T.figure(`Tokens ${title.toLowerCase()}`, table, asRows));
  };

  const MOVED = "The deeper a token is coloured, the further the prediction of what follows it moves (KL of steered " +
    "from unsteered, in nats). Pick a token to see which next tokens gain and lose.";
  const UNLISTED = "Gains and losses are listed for the tokens that change most; not for this one.";
  const ODDS = "From the unsteered probability (grey) to the steered one, on an axis of log-odds.";

  /* what is gained and lost behind one token */
  const behind = (data, i) => {
    const gained = data.gained[i], lost = data.lost[i], note = (text) => el("p", { class: "note" }, text);
    const nats = el("b", { class: "num" }, T.num(data.kl[i]) + "\u00a0nats");
    const line = el("p", {}, "Behind ", T.word(data.tokens[i]), ` (token ${i}): `, nats, " from unsteered", T.beside(data.band, i));
    if (!gained) return [line, note(UNLISTED)];
    const axis = T.oddsAxis([...gained, ...lost].flatMap(([, ...both]) => both));
    return [line, el("div", { class: "split" }, moves("Gained", gained, "more", axis), moves("Lost", lost, "less", axis)), note(ODDS)];
  };

  T.draw.logit_change = (root, data) => {
    const top = T.most(data.kl) || 1, panel = el("div", { class: "card", "aria-live": "polite" });
    const asked = T.at.number("t"), first = asked !== null && asked in data.kl ? asked : data.kl.length - 1;
    const show = (i) => T.put(panel, behind(data, i));
    const tokens = T.tokens(data.tokens, {
      share: (i) => T.value(data.kl[i]) / top, says: (i) => `${T.num(data.kl[i])} nats${T.beside(data.band, i)}`,
      mark: (i) => (T.above(data.kl[i], data.band, i) ? "above" : ""), picked: first,
      pick: (i) => { T.at.set({ t: i }); show(i); },
    });
    const rows = () => [["token", "nats", ...(data.band ? ["random, low", "random, high"] : [])],
      ...data.tokens.map((text, i) => [text, T.value(data.kl[i]), ...(data.band || []).map((end) => T.value(end[i]))])];
    T.add(root, el("p", { class: "note" }, MOVED),
      T.controlled(data.control, data.control && (data.control.whole ? "Underlined: above all of them." : "Underlined: above that.")),
      T.figure("KL of every token", tokens, rows),
      T.scale("0", `${T.num(top)} nats`, false, T.UNDER_TEXT), el("p", {}), panel);
    show(first);
  };

  const part = (stream, kind, source) => {
    if (stream === 0) return "in front of block 0";
    if (kind === 2) return stream - 1 === source ? "the vector itself" : `block ${stream - 1}, rest`;
    return `block ${stream - 1} ${kind ? "MLP" : "attention"}`;
  };

  const DIRECT = "Steered minus unsteered, behind the prompt. Parts add up to the whole change of the difference; they " +
    "count what reaches the logits directly, not what made a block act.";
  const UNREAD = "This model's last layers cannot be read, so nothing is attributed.";

  T.draw.logit_attribution = (root, data) => {
    if (!data.tokens.length) { T.add(root, el("p", { class: "note" }, UNREAD)); return; }
    const choice = (picked, label) => {
      const option = (text, i) => el("option", { value: i, selected: i === picked }, T.quoted(text));
      const box = el("select", { "aria-label": label }, data.tokens.map(option));
      box.addEventListener("change", () => show());
      return box;
    };
    const a = choice(0, "Logit of"), b = choice(Math.min(data.offered, data.tokens.length - 1), "less logit of");
    const body = el("div");
    const show = () => T.put(body, carried(data, Number(a.value), Number(b.value)));
    T.add(root, el("p", { class: "note" }, DIRECT),
      el("div", { class: "row" }, el("span", {}, "logit of "), a, el("span", {}, " less logit of "), b), body);
    show();
  };

  /* what carries the difference of two tokens' logits */
  const carried = (data, i, j) => {
    const of = (cell) => T.value(cell[i]) - T.value(cell[j]), heads = data.heads && data.heads.map((layer) => layer.map(of));
    // Random vectors were measured on the pair that each of them moves most: this one's is shown first.
    const band = data.band && i === 0 && j === data.offered ? data.band : null;
    const all = data.direct.flatMap((layer, s) => layer.map((cell, k) =>
      ({ name: part(s, k, data.source_layer), value: of(cell), band: band && band.direct.map((end) => end[s][k]) })));
    return [
      el("p", {}, "The difference moves by ", el("b", { class: "num" }, T.num(of(data.moved), true)),
        ` (logits, ${T.quoted(data.tokens[i])} less ${T.quoted(data.tokens[j])}).`),
      el("div", { class: "split" },
        el("div", {}, el("h3", {}, "By component, largest first"),
          T.figure("Attribution by component", T.banded(largest(all), { signed: true }), () => asRows(all)), random(data, band)),
        el("div", {}, el("h3", {}, "Through the layers"),
          T.figure("Attribution by layer", profile(data, of), () => asRows(all)), byHead(heads, band)))];
  };
  const largest = (all) => {
    const ranked = all.filter((p) => Math.abs(p.value) > 1e-6).sort((x, y) => Math.abs(y.value) - Math.abs(x.value));
    const shown = ranked.slice(0, 10), rest = ranked.slice(10);
    if (rest.length) shown.push({ name: `${rest.length} others`, value: rest.reduce((s, p) => s + p.value, 0) });
    return shown;
  };
  const random = (data, band) => data.control && el("p", { class: "note" },
    band ? `Grey: random, ${T.bandOf(data.control)}, each on the pair of tokens that it moves most.`
      : "Random vectors are shown for the first pair of tokens only.");
  /* In a report, picking a head opens what it looks at. */
  const byHead = (heads, band) => {
    if (!heads || !heads.flat().some(Number.isFinite)) return null;
    const vector = T.opened ? T.opened() : null, prompt = T.at.get("p");
    const open = (layer, head) => { location.hash = `v${vector}/attention?${prompt ? `p=${prompt}&` : ""}h=${layer}.${head}`; };
    const grid = T.grid(heads[0].map((_, head) => heads.map((layer) => layer[head])), {
      label: "Attribution to heads: heads down, layers across", signed: true, width: 560, least: 8,
      pick: vector === null ? null : open, columns: { title: "layer →" }, rows: { title: "head ↓" },
      says: (layer, head, v) => `head ${layer}.${head}: ${T.num(v, true)} logits`,
    });
    const rows = () => [["layer", "head", "logits"], ...heads.flatMap((layer, l) => layer.map((v, h) => [l, h, v]))];
    return el("div", { class: "heads-attribution" }, el("h3", {}, "Through each head"), T.figure("Attribution to heads", grid.node, rows),
      vector !== null && el("p", { class: "note" }, "Pick a head to see what it looks at."),
      band && band.head && el("p", { class: "note" }, `Random vectors' largest head: ${T.num(band.head[0])} to ${T.num(band.head[1])}.`));
  };
  const asRows = (all) => [["component", "logits", "random, low", "random, high"],
    ...all.map((p) => [p.name, p.value, ...(p.band ? p.band.map(T.value) : ["", ""])])];

  /* attention and MLP of each block side by side, around zero */
  const profile = (data, of) => {
    const layers = data.direct.length, width = 420, height = 150, middle = 70;
    const top = T.most(data.direct.flatMap((layer) => layer.map(of))) || 1;
    const step = (width - 20) / layers, chart = T.svg("svg", { viewBox: `0 0 ${width} ${height}`, style: { maxWidth: "520px" }, role: "img", "aria-label": "Attribution by layer" });
    data.direct.forEach((layer, s) => layer.forEach((cell, k) => {
      const v = of(cell), h = (Math.abs(v) / top) * 62;
      if (!(h > 0.2)) return;
      const bar = T.svg("rect", { class: k === 0 ? "fill-more" : k === 1 ? "fill-soft" : "fill-ink", x: 14 + s * step + (k * step) / 3.2, width: Math.max(1, step / 3.4), y: v > 0 ? middle - h : middle, height: h });
      T.add(chart, T.tip(bar, `${part(s, k, data.source_layer)}: ${T.num(v, true)}`));
    }));
    T.add(chart, T.svg("line", { class: "axis", x1: 10, x2: width, y1: middle, y2: middle }));
    for (let s = 1; s < layers; s += Math.ceil(layers / 8)) T.add(chart, T.svg("text", { x: 14 + s * step, y: height - 4 }, s - 1));
    return el("div", {}, T.legend(["more", "attention"], ["soft", "MLP"], ["ink", "the vector, rest"]), chart);
  };
})();
