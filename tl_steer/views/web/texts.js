/* Steered text beside unsteered text; how it changes with the radius. */
(() => {
  const T = TlSteer, el = T.el;
  T.draw.generations = (root, data) => {
    let prompt = 0;
    const bar = el("div", { class: "row" }), body = el("div");
    T.add(root, el("p", { class: "note" }, "Marked words are not in the unsteered text."), bar, body);
    if (data.prompts.length > 1) {
      const box = el("select", { "aria-label": "Prompt" }, data.prompts.map((text, i) => el("option", { value: i }, text.length > 80 ? text.slice(0, 80) + "…" : text)));
      box.addEventListener("change", () => { prompt = Number(box.value); show(); });
      T.add(bar, box);
    }
    const show = () => T.put(body, 
      el("div", { class: "card" }, el("h3", {}, "Prompt"), el("p", { class: "said" }, data.prompts[prompt]), el("h3", {}, "Unsteered"), el("div", { class: "said" }, data.unsteered[prompt])),
      el("table", {}, el("thead", {}, el("tr", {}, el("th", { class: "num" }, "#"), el("th", {}, "Steered"))),
        el("tbody", {}, data.texts.map((row, v) => el("tr", {}, el("td", { class: "num" }, data.numbers[v]), el("td", {}, data.labels[v] && el("div", { class: "note" }, data.labels[v]), T.said(data.unsteered[prompt], row[prompt])))))),
      data.texts.length < data.vectors && el("p", { class: "note" }, `${data.vectors - data.texts.length} more vectors are not shown.`));
    show();
  };

  const NAMES = { vectors: ["more", "vectors"], opposites: ["less", "their opposites"], random: ["base", "random vectors"] };
  const WIDTH = 460, HEIGHT = 226, LEFT = 48, TOP = 14, BOTTOM = HEIGHT - 42;
  const three = (value) => [].concat(value).map(T.value);
  const middle = (value) => { const all = three(value); return all.length === 3 ? all[1] : all[0]; };

  /* Places on a chart: radii on a log scale, values between the least and the largest that are finite. */
  const axes = (data, read, lines, floor) => {
    const points = data.curves.flatMap((c) => c.points), radii = points.map((p) => p.radius);
    const low = Math.log(Math.min(...radii)), high = Math.log(Math.max(...radii));
    const values = [...points.flatMap((p) => three(read(p))), ...lines.map(([v]) => T.value(v))].filter(Number.isFinite);
    const top = Math.max(...values, 1e-9), base = floor === null ? Math.min(0, ...values) : floor;
    const x = (r) => LEFT + (high > low ? (Math.log(r) - low) / (high - low) : 0.5) * (WIDTH - LEFT - 12);
    const y = (v) => BOTTOM - ((Math.max(base, Math.min(top, v)) - base) / (top - base || 1)) * (BOTTOM - TOP);
    return { x, y, base, top, ends: [Math.exp(low), Math.exp(high)] };
  };
  const path = (points) => {
    let open = false;
    return points.map(([x, y]) => {
      const piece = Number.isNaN(y) ? "" : `${open ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`;
      open = !Number.isNaN(y);
      return piece;
    }).join("");
  };

  /* from paraphrase to gibberish */
  const shade = (root, data, at) => {
    if (!data.band || !(data.band.highest > data.band.lowest)) return;
    const [a, b] = [data.band.lowest, data.band.highest].map((r) => at.x(Math.max(at.ends[0], Math.min(at.ends[1], r))));
    T.add(root, T.svg("rect", { class: "shade-more", x: a, width: Math.max(b - a, 1), y: TOP, height: BOTTOM - TOP }));
  };
  const frame = (root, data, at, say, lines) => {
    const text = (x, y, said, anchor = "end") => T.svg("text", { x, y, "text-anchor": anchor }, said);
    const across = (v, kind) => T.svg("line", { class: kind, "stroke-width": 1, x1: LEFT, x2: WIDTH, y1: at.y(v), y2: at.y(v) });
    for (const v of [at.base, (at.base + at.top) / 2, at.top]) T.add(root, across(v, "axis"), text(LEFT - 6, at.y(v) + 4, say(v)));
    const first = data.curves[0].points, few = first.filter((_, i) => first.length < 8 || i % 2 === 0);
    T.add(root, few.map((p) => text(at.x(p.radius), BOTTOM + 18, T.num(p.share), "middle")));
    T.add(root, text(WIDTH - 4, HEIGHT - 6, "radius, share of the norm"));
    for (const [raw, name] of lines) {
      const v = T.value(raw);
      if (Number.isFinite(v)) T.add(root, across(v, "base dash"), text(WIDTH - 2, at.y(v) - 4, name));
    }
  };
  /* Medians as a line that breaks where there is no number, quartiles as a shade, infinity at the top as such. */
  const curve = (root, { name, points }, read, at, say) => {
    const kind = NAMES[name][0], values = points.map((p) => three(read(p))), x = points.map((p) => at.x(p.radius));
    if (values[0].length === 3 && !values.flat().some(Number.isNaN)) {
      const back = values.map((v, i) => `L${x[i]} ${at.y(v[0])}`).reverse().join("");
      T.add(root, T.svg("path", { class: "shade-" + kind, d: path(values.map((v, i) => [x[i], at.y(v[2])])) + back + "Z" }));
    }
    const line = path(points.map((p, i) => [x[i], at.y(middle(read(p)))]));
    T.add(root, T.svg("path", { class: kind + (name === "random" ? " dash" : ""), d: line }));
    points.forEach((p, i) => {
      const v = middle(read(p));
      if (Number.isNaN(v)) return;
      const dot = Number.isFinite(v) ? T.svg("circle", { class: "fill-" + kind, cx: x[i], cy: at.y(v), r: 3.5 })
        : T.svg("text", { class: "strong", x: x[i], y: at.y(v) + (v > 0 ? -2 : 10), "text-anchor": "middle" }, "∞");
      T.add(root, T.tip(dot, `${NAMES[name][1]}, radius ${T.num(p.radius)}: ${say(v)}`));
    });
  };

  const chart = (title, data, read, { lines = [], percent = false, floor = null } = {}) => {
    const at = axes(data, read, lines, floor), say = percent ? T.percent : T.num;
    const root = T.svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": title });
    shade(root, data, at);
    frame(root, data, at, say, lines);
    for (const each of data.curves) curve(root, each, read, at, say);
    const quartiles = (v) => (v.length === 3 ? v : ["", v[0], ""]);
    const rows = () => [["vectors", "radius", "share", "lower quartile", "median", "upper quartile"],
      ...data.curves.flatMap(({ name, points }) => points.map((p) => [NAMES[name][1], p.radius, p.share, ...quartiles(three(read(p)))]))];
    return el("div", {}, el("h3", {}, title), T.figure(title, root, rows));
  };

  const between = (data) => {
    const band = data.band, share = (r) => T.num(r / data.norm);
    if (!band) return null;
    if (!(band.highest > band.lowest)) return el("p", { class: "note" }, `No band between paraphrase and gibberish: ${band.note}.`);
    const from = `from ${share(band.lowest)} to ${share(band.highest)} of the norm${band.note && ` (${band.note})`}`;
    return el("p", { class: "note" }, `Shaded: between paraphrase and gibberish, ${from}.`);
  };
  const samples = (data) => {
    const row = (t) => el("tr", {}, el("td", { class: "num" }, T.num(t.radius)), el("td", { class: "note" }, `vector ${t.vector}`),
      el("td", { class: "said" }, t.text));
    const table = el("table", {}, el("tbody", {}, data.texts.map(row)));
    const rows = () => [["radius", "vector", "text"], ...data.texts.map((t) => [t.radius, t.vector, t.text])];
    return [el("h3", {}, "A middling text at every radius"), T.figure("Texts by radius", table, rows)];
  };

  T.draw.dose_response = (root, data) => {
    if (!data.curves.length) { T.add(root, el("p", { class: "note" }, "Nothing was measured.")); return; }
    const lines = [[data.fluent, "the model's own text"], [data.salad, "the same, shuffled"]];
    T.add(root, el("p", { class: "note" },
      `Across: the radius as a share of the median residual norm at ${data.source} (${T.num(data.norm)}), on a log scale. `,
      "Lines are medians over vectors and prompts, shades their quartiles."),
      between(data), T.legend(...data.curves.map((c) => NAMES[c.name])),
      el("div", { class: "split", style: { gridTemplateColumns: "repeat(auto-fit, minmax(min(400px, 100%), 1fr))" } },
        chart("KL of the next token, nats", data, (p) => p.kl),
        chart("Surprise, nats per token", data, (p) => p.surprise, { lines }),
        chart("Texts that change", data, (p) => p.changed, { percent: true, floor: 0 }),
        chart("Repeated token pairs", data, (p) => p.repetition, { percent: true, floor: 0 })),
      samples(data));
  };
})();
