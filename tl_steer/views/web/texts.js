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

  /* a line chart over log radius, with quartiles shaded */
  const chart = (title, data, read, { lines = [], percent = false, floor = null } = {}) => {
    const width = 460, height = 210, left = 44, bottom = 30, ends = [10, height - bottom];
    const radii = data.curves.flatMap((c) => c.points.map((p) => p.radius)), low = Math.log(Math.min(...radii)), high = Math.log(Math.max(...radii));
    const values = data.curves.flatMap((c) => c.points.flatMap((p) => [].concat(read(p)))).map(T.value).filter(Number.isFinite).concat(lines.map(([v]) => T.value(v)).filter(Number.isFinite));
    const top = Math.max(...values, 1e-9), base = floor === null ? Math.min(0, ...values) : floor;
    const x = (r) => left + (high > low ? (Math.log(r) - low) / (high - low) : 0.5) * (width - left - 12);
    const y = (v) => ends[1] - ((Math.max(base, Math.min(top, T.value(v))) - base) / (top - base || 1)) * (ends[1] - ends[0]);
    const root = T.svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title });
    const say = percent ? T.percent : T.num;
    for (const v of [base, (base + top) / 2, top]) T.add(root, T.svg("line", { class: "axis", x1: left, x2: width, y1: y(v), y2: y(v) }), T.svg("text", { x: left - 6, y: y(v) + 4, "text-anchor": "end" }, say(v)));
    const first = data.curves[0].points;
    first.forEach((p, i) => { if (first.length < 8 || i % 2 === 0) T.add(root, T.svg("text", { x: x(p.radius), y: height - 12, "text-anchor": "middle" }, T.num(p.share))); });
    for (const [v, name] of lines) if (Number.isFinite(T.value(v))) T.add(root, T.svg("line", { class: "base dash", "stroke-width": 1, x1: left, x2: width, y1: y(v), y2: y(v) }), T.svg("text", { x: width - 2, y: y(v) - 4, "text-anchor": "end" }, name));
    for (const curve of data.curves) {
      const kind = { vectors: "more", opposites: "less", random: "base" }[curve.name];
      const trio = curve.points.map((p) => [].concat(read(p)));
      if (trio[0].length === 3) T.add(root, T.svg("path", { class: "shade-" + kind, d: trio.map((t, i) => `${i ? "L" : "M"}${x(curve.points[i].radius)} ${y(t[2])}`).join("") + trio.map((t, i) => `L${x(curve.points[i].radius)} ${y(t[0])}`).reverse().join("") + "Z" }));
      const middle = trio.map((t) => (t.length === 3 ? t[1] : t[0]));
      T.add(root, T.svg("path", { class: kind + (curve.name === "random" ? " dash" : ""), d: middle.map((v, i) => `${i ? "L" : "M"}${x(curve.points[i].radius)} ${y(v)}`).join("") }));
      middle.forEach((v, i) => T.add(root, T.tip(T.svg("circle", { class: "fill-" + kind, cx: x(curve.points[i].radius), cy: y(v), r: 3.5 }), `${curve.name}, radius ${T.num(curve.points[i].radius)}: ${say(v)}`)));
    }
    return el("figure", {}, el("h3", {}, title), root);
  };

  T.draw.dose_response = (root, data) => {
    if (!data.curves.length) { T.add(root, el("p", { class: "note" }, "Nothing was measured.")); return; }
    const names = { vectors: ["more", "vectors"], opposites: ["less", "their opposites"], random: ["base", "random vectors"] };
    T.add(root, el("p", { class: "note" }, `Across: the radius as a share of the median residual norm at ${data.source} (${T.num(data.norm)}), on a log scale. Lines are medians over vectors and prompts, shades their quartiles.`),
      T.legend(...data.curves.map((c) => names[c.name])),
      el("div", { class: "split" },
        chart("KL of the next token, nats", data, (p) => p.kl), chart("Surprise, nats per token", data, (p) => p.surprise, { lines: [[data.fluent, "the model's own text"], [data.salad, "the same, shuffled"]] }),
        chart("Texts that change", data, (p) => p.changed, { percent: true, floor: 0 }), chart("Repeated token pairs", data, (p) => p.repetition, { percent: true, floor: 0 })),
      el("h3", {}, "A middling text at every radius"),
      el("table", {}, el("tbody", {}, data.texts.map((t) => el("tr", {}, el("td", { class: "num" }, T.num(t.radius)), el("td", { class: "note" }, `vector ${t.vector}`), el("td", { class: "said" }, t.text))))));
  };
})();
