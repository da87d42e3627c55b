/* Vectors as dots on a plane: near each other by response or by text, in clusters. */
(() => {
  const T = TlSteer, el = T.el;
  const COLOURS = 8,
    CROWD = 60; // clusters that are coloured; more dots than that have no numbers
  const coloured = (k) => (k < 0 || k >= COLOURS ? "alone" : "c" + k);
  const short = (text, most) => {
    const said = text.trim().replace(/\s+/g, " ");
    return said.length > most ? said.slice(0, most - 1) + "…" : said;
  };

  /* the plane */
  const named = (data, i) => `#${data.order[i]}${data.labels[i] ? " " + T.quoted(data.labels[i]) : ""}`;
  const said = (data, i) => data.labels[i] || (data.texts && data.texts[i]) || `#${data.order[i]}`;

  T.onAPlane = (root, data) => {
    const names = data.planes.map((p) => p.name),
      asked = T.at.get("by"),
      place = data.order.indexOf(T.at.number("m"));
    const state = { by: names.includes(asked) ? asked : names[0], picked: place < 0 ? null : place };
    const bar = el(
      "div",
      { class: "row", role: "group", "aria-label": "Near each other by" },
      names.map((name) =>
        el(
          "button",
          {
            type: "button",
            "data-name": name,
            onclick: () => {
              state.by = name;
              T.at.set({ by: name });
              show();
            },
          },
          "by " + name,
        ),
      ),
    );
    const body = el("div"),
      card = el("div", { class: "map-card", "aria-live": "polite" });
    T.add(root, names.length > 1 && bar, el("div", { class: "map-split" }, body, card));
    /* The first click picks, the second one compares with what was picked. */
    const pick = (i) => {
      if (state.picked !== null && state.picked !== i && T.has("overview")) {
        location.hash = `v${data.order[state.picked]}?vs=${data.order[i]}`;
        return;
      }
      const before = state.picked === i ? null : state.picked;
      state.picked = i;
      T.at.set({ m: data.order[i] });
      mark();
      tell(before);
    };
    let nodes = [];
    const mark = () => nodes.forEach((node, i) => node.setAttribute("aria-pressed", String(i === state.picked)));
    const tell = (before) =>
      T.put(
        card,
        before !== null && about(data, before),
        state.picked !== null
          ? about(data, state.picked)
          : el("p", { class: "note" }, "Click a dot, or move with the arrow keys and press Enter."),
        state.picked !== null && T.has("overview") && el("p", { class: "note" }, "Click another vector to compare the two."),
        clusterList(data, chosen(), pick),
      );
    const chosen = () => data.planes.find((p) => p.name === state.by);
    const show = () => {
      [...bar.children].forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.name === state.by)));
      const made = chart(data, chosen(), pick);
      nodes = made.nodes;
      T.put(
        body,
        T.figure(`map of vectors by ${state.by}`, [made.node, el("p", { class: "note" }, how(chosen()))], () =>
          rows(data, chosen()),
        ),
      );
      mark();
      tell(null);
    };
    show();
  };
  const how = (p) => [
    {
      response: "Near: responses alike, whatever their sign (1 − |cos|).",
      text: "Near: texts with the same runs of three letters (tf-idf).",
    }[p.name],
    ` Two dimensions show ${T.percent(p.share)} of what is apart: near dots may still differ, far ones do. Larger dots: larger objective. Outlined: clusters, named by their middle vector.`,
  ];
  const cluster = (p, i) => p.clusters.findIndex((c) => c.members.includes(i));
  const rows = (data, p) => [
    ["vector", "label", "x", "y", "cluster", "text"],
    ...data.order.map((v, i) => [v, data.labels[i], ...p.points[i], cluster(p, i) + 1 || "", data.texts ? data.texts[i] : ""]),
  ];
  const about = (data, i) =>
    el(
      "div",
      { class: "card" },
      el(
        "h3",
        {},
        T.has("overview") ? el("a", { href: "#v" + data.order[i] }, `vector ${data.order[i]}`) : `vector ${data.order[i]}`,
        data.labels[i] && ` ${T.quoted(data.labels[i])}`,
      ),
      data.texts && el("p", { class: "said" }, data.texts[i]),
      el("p", { class: "note" }, `objective ${T.num(data.objective[i])}`),
    );
  const clusterList = (data, p, pick) =>
    p.clusters.length > 0 &&
    el(
      "div",
      {},
      el("h3", {}, `${p.clusters.length} clusters by ${p.name}`),
      el(
        "ul",
        { class: "clusters" },
        p.clusters.slice(0, 24).map((c, k) =>
          el(
            "li",
            {},
            el("i", { class: coloured(k) }),
            el(
              "button",
              { type: "button", title: said(data, c.representative), onclick: () => pick(c.representative) },
              short(said(data, c.representative), 46),
            ),
            el(
              "span",
              { class: "small" },
              ` ${c.members.length}: ${c.members
                .slice(0, 10)
                .map((i) => "#" + data.order[i])
                .join(" ")}${c.members.length > 10 ? " …" : ""}`,
            ),
          ),
        ),
      ),
    );

  const chart = (data, p, pick) => {
    const width = T.room(700),
      height = Math.min(520, width * 0.9),
      pad = 34,
      all = p.points.concat(p.unsteered ? [p.unsteered] : []);
    const [x0, x1] = T.span(all.map((q) => q[0])),
      [y0, y1] = T.span(all.map((q) => q[1]));
    // One scale for both axes: distances are to be read in any direction.
    const scale = Math.min((width - 2 * pad) / (x1 - x0), (height - 2 * pad) / (y1 - y0));
    const at = ([x, y]) => [width / 2 + (x - (x0 + x1) / 2) * scale, height / 2 - (y - (y0 + y1) / 2) * scale];
    const svg = T.svg(
      "svg",
      {
        viewBox: `0 0 ${width} ${height}`,
        class: "plane" + (p.points.length > CROWD ? " crowded" : ""),
        role: "group",
        "aria-label": `Vectors by ${p.name}; arrow keys move`,
      },
      T.svg("rect", { class: "ground", width, height, rx: 10 }),
    );
    p.clusters.slice(0, COLOURS).forEach((c, k) =>
      T.add(
        svg,
        outline(
          c.members.map((i) => at(p.points[i])),
          k,
        ),
      ),
    );
    if (p.unsteered) {
      const [x, y] = at(p.unsteered);
      T.add(
        svg,
        T.tip(T.svg("rect", { class: "fill-base", x: x - 5, y: y - 5, width: 10, height: 10 }), "the unsteered text"),
        T.svg("text", { x: x + 9, y: y + 4 }, "unsteered"),
      );
    }
    const top = Math.sqrt(T.most(data.objective)) || 1;
    const nodes = p.points.map((point, i) =>
      dot(data, p, i, at(point), 5 + 4 * (Math.sqrt(Math.max(0, T.value(data.objective[i]) || 0)) / top), pick),
    );
    T.add(
      svg,
      nodes,
      p.clusters.slice(0, COLOURS).map((c, k) =>
        nameOf(
          data,
          c,
          k,
          c.members.map((i) => at(p.points[i])),
          width,
        ),
      ),
    );
    T.walk(byPlace(nodes, p.points));
    return { node: svg, nodes };
  };
  /* Arrow keys go from left to right. */
  const byPlace = (nodes, points) =>
    nodes
      .map((node, i) => [points[i], node])
      .sort(([a], [b]) => a[0] - b[0] || a[1] - b[1])
      .map(([, node]) => node);
  const dot = (data, p, i, [x, y], r, pick) => {
    const k = cluster(p, i),
      text = data.texts ? `\n${data.texts[i]}` : "";
    const node = T.svg(
      "g",
      { class: "dot", role: "button", "aria-label": named(data, i) + (k >= 0 ? `, cluster ${k + 1}` : "") + text },
      T.svg("circle", { class: coloured(k), cx: x, cy: y, r }),
      T.svg("text", { class: "number", x, y: y - r - 3, "text-anchor": "middle" }, data.order[i]),
    );
    node.addEventListener("click", () => pick(i));
    node.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        pick(i);
      }
    });
    return T.tip(node, named(data, i) + text);
  };
  /* A soft shape around a cluster: its hull, drawn with a wide round pen. */
  const outline = (points, k) => {
    const d =
      "M" +
      hull(points)
        .map((q) => q.map((v) => v.toFixed(1)).join(" "))
        .join("L") +
      "Z";
    return T.svg("path", { class: "hull " + coloured(k), d });
  };
  const hull = (points) => {
    const sorted = points.slice().sort(([a, b], [c, d]) => a - c || b - d);
    const side = (list) =>
      list.reduce((kept, q) => {
        while (kept.length > 1 && turn(kept[kept.length - 2], kept[kept.length - 1], q) <= 0) kept.pop();
        return kept.concat([q]);
      }, []);
    return [...side(sorted).slice(0, -1), ...side(sorted.slice().reverse()).slice(0, -1)];
  };
  const turn = ([ax, ay], [bx, by], [cx, cy]) => (bx - ax) * (cy - ay) - (by - ay) * (cx - ax);
  const nameOf = (data, c, k, points, width) => {
    const x = points.reduce((sum, q) => sum + q[0], 0) / points.length,
      y = Math.max(...points.map((q) => q[1])) + 26;
    const most = width < 500 ? 20 : 30,
      half = Math.min(most, said(data, c.representative).length) * 3.2;
    return T.svg(
      "text",
      { class: "strong name", x: Math.max(half, Math.min(width - half, x)), y, "text-anchor": "middle" },
      short(said(data, c.representative), most),
    );
  };
})();
