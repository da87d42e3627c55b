/* What a sweep found of every vector. */
(() => {
  const T = TlSteer, el = T.el;
  const STEP = 24,
    TOP = 20;
  const size = (v) => (Number.isNaN(T.value(v)) ? -Infinity : T.value(v));
  const SORTS = {
    value: (q) => (a, b) => size(q.values[b][0]) - size(q.values[a][0]) || a - b,
    vector: () => (a, b) => a - b,
    "lower end": (q) => (a, b) => size(q.values[b][1]) - size(q.values[a][1]) || a - b,
    "width of interval": (q) => (a, b) => wide(q, a) - wide(q, b) || a - b,
  };
  const wide = (q, i) => {
    const [, low, high] = q.values[i].map(T.value),
      w = high - low;
    return Number.isNaN(w) ? Infinity : w;
  };
  const select = (label, options, chosen, pick) => {
    const box = el(
      "select",
      { onchange: () => pick(box.value) },
      options.map(([value, said]) => el("option", { value, selected: value === chosen }, said)),
    );
    return el("label", { class: "small" }, label + " ", box);
  };

  T.draw.sweep = (root, data) => {
    const names = data.quantities.map((q) => q.name),
      grouped = data.categories.map((c) => c.name);
    const asked = (name, among, other) => (among.includes(T.at.get(name)) ? T.at.get(name) : other);
    const state = { m: asked("m", names, names[0]), s: asked("s", Object.keys(SORTS), "value"), g: asked("g", grouped, "") };
    const set = (changes) => {
      Object.assign(state, changes);
      T.at.set(changes);
      show();
    };
    const bar = el(
      "div",
      { class: "row", role: "group", "aria-label": "Quantity" },
      names.map((name) => el("button", { type: "button", "data-name": name, onclick: () => set({ m: name }) }, T.short(name))),
    );
    const body = el("div");
    T.add(
      root,
      bar,
      el(
        "div",
        { class: "row" },
        select(
          "sorted by",
          Object.keys(SORTS).map((s) => [s, s]),
          state.s,
          (s) => set({ s }),
        ),
        grouped.length > 0 &&
          select("grouped by", [["", "nothing"], ...grouped.map((g) => [g, T.short(g)])], state.g, (g) => set({ g })),
      ),
      data.rests_on && el("p", { class: "note" }, `Verdicts rest on ${data.rests_on}.`),
      data.left_out > 0 &&
        el("p", { class: "note" }, `${data.left_out} vectors are left out: those of the smallest ${names[0]}.`),
      body,
    );
    const show = () => {
      [...bar.children].forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.name === state.m)));
      const q = data.quantities.find((each) => each.name === state.m),
        groups = inGroups(data, q, state);
      T.put(
        body,
        T.figure(`sweep, ${q.name}`, [legend(q), chart(data, q, groups)], () => [
          ["vector", "label", q.name, "low", "high"],
          ...groups.flatMap(([, rows]) => rows.map((i) => [data.vectors[i], data.labels[i], ...q.values[i].map(T.value)])),
        ]),
      );
    };
    show();
  };

  const inGroups = (data, q, { s, g }) => {
    const order = q.values.map((_, i) => i).sort(SORTS[s](q)),
      kinds = data.categories.find((c) => c.name === g);
    if (!kinds) return [["", order]];
    return [...new Set(kinds.values)].map((kind) => [kind || "(none)", order.filter((i) => kinds.values[i] === kind)]);
  };
  const legend = (q) =>
    el(
      "p",
      { class: "note" },
      `${q.name}, with intervals where they are known. `,
      q.random !== null && `Dashed: the random vectors' median, ${T.num(q.random)}.`,
    );

  const chart = (data, q, groups) => {
    const [low, high] = T.span(q.values.flat(), 0, q.random === null ? 0 : q.random);
    const width = T.room(860),
      narrow = width < 560,
      longest = Math.max(...data.vectors.map((_, i) => named(data, i).length));
    const place = { width, narrow, left: Math.min(narrow ? 110 : 180, 24 + 7 * longest), right: narrow ? 58 : 160 };
    const headed = groups.length > 1,
      count = groups.reduce((n, [, rows]) => n + rows.length + (headed ? 1 : 0), 0),
      height = TOP + count * STEP + 6;
    const x = (v) => place.left + ((T.value(v) - low) / (high - low)) * (width - place.left - place.right);
    const svg = T.svg("svg", {
      viewBox: `0 0 ${width} ${height}`,
      class: "sweep",
      role: "group",
      "aria-label": `${q.name} of every vector; arrow keys move`,
    });
    const down = (v, kind, said) =>
      T.add(
        svg,
        T.svg("line", { class: kind, x1: x(v), x2: x(v), y1: TOP - 2, y2: height }),
        said && T.svg("text", { x: x(v), y: 12, "text-anchor": "middle" }, said),
      );
    T.ticks(low, high).forEach((v) => down(v, v === 0 ? "zero" : "axis", T.tick(v)));
    if (q.random !== null) down(q.random, "base dash");
    let y = TOP - STEP / 2;
    const nodes = [];
    for (const [kind, rows] of groups) {
      if (headed)
        T.add(svg, T.svg("text", { class: "strong", x: 0, y: (y += STEP) + 4, "font-weight": 600 }, `${kind} (${rows.length})`));
      for (const i of rows) {
        const node = row(data, q, i, { ...place, y: (y += STEP), x });
        nodes.push(node);
        T.add(svg, node);
      }
    }
    T.walk(nodes);
    return svg;
  };

  const named = (data, i) => `${data.vectors[i]} ${data.labels[i]}`.trim();
  const row = (data, q, i, { x, y, width, left, right, narrow }) => {
    const [v, low, high] = q.values[i].map(T.value),
      label = named(data, i),
      interval = Number.isFinite(low) && Number.isFinite(high);
    const span = interval ? ` (${T.num(low)} to ${T.num(high)})` : "",
      most = narrow ? 14 : 24;
    const linked = T.has("overview") && /^\d+$/.test(data.vectors[i]);
    const node = T.svg(
      linked ? "a" : "g",
      {
        class: "line",
        href: linked ? "#v" + data.vectors[i] : null,
        "aria-label": `${label}: ${T.num(v)}${span}`,
        role: linked ? null : "img",
      },
      T.svg("rect", { class: "hover", x: 0, y: y - STEP / 2, width, height: STEP }),
      T.svg(
        "text",
        { class: "strong", x: left - 12, y: y + 4, "text-anchor": "end" },
        label.length > most ? label.slice(0, most - 1) + "…" : label,
      ),
      interval && T.svg("line", { class: "interval", x1: x(low), x2: x(high), y1: y, y2: y }),
      Math.abs(v) === Infinity &&
        T.svg("text", { class: "strong infinite", x: v > 0 ? width - right : left, y: y + 4, "text-anchor": "middle" }, T.num(v)),
      Number.isFinite(v) && T.svg("circle", { class: "fill-more", cx: x(v), cy: y, r: 5 }),
      T.svg("text", { x: width - 2, y: y + 4, "text-anchor": "end" }, T.num(v) + (narrow ? "" : span)),
    );
    return T.tip(node, `${label}: ${T.num(v)}${span}`);
  };
})();
