/* Whole banks: which vectors are alike, and which were chosen. */
(() => {
  const T = TlSteer, el = T.el;
  T.draw.bank_map = (root, data) => {
    const left_out =
      data.order.length < data.total && ` ${data.order.length} of ${data.total} vectors, those of largest objective.`;
    if (data.planes.length) T.onAPlane(root, data);
    else T.add(root, el("p", { class: "note" }, "Responses were not measured, so there is no map of them.", left_out));
    matrices(root, data, left_out);
  };

  const named = (data, i) => `#${data.order[i]}${data.labels[i] ? " " + T.quoted(data.labels[i]) : ""}`;

  /* cosines of all pairs */
  const matrices = (root, data, left_out) => {
    const one = (title, values) => {
      const axis = { name: (i) => String(data.order[i]), tilt: false };
      const grid = T.grid(values, {
        limit: 1,
        signed: true,
        least: 2,
        most: 22,
        width: 520,
        label: `Cosines of ${title}`,
        columns: axis,
        rows: axis,
        says: (x, y, v) => `${named(data, y)} and ${named(data, x)}: cosine ${T.num(v, true)}`,
        pick: (x, y) => {
          if (T.has("overview")) location.hash = x === y ? "v" + data.order[x] : `v${data.order[y]}?vs=${data.order[x]}`;
        },
      });
      return el(
        "div",
        {},
        el("h3", {}, title),
        T.figure(`cosines of ${title}`, grid.node, () => [
          ["", ...data.order],
          ...values.map((row, i) => [data.order[i], ...row.map(T.value)]),
        ]),
      );
    };
    T.add(
      root,
      el("h2", {}, "Cosines of all pairs"),
      el(
        "p",
        { class: "note" },
        "Vectors in the same clustered order in both. Pairs that are alike on the right and not on the left have the same effect by different ways.",
        left_out,
      ),
      el(
        "div",
        { class: "split" },
        one("directions", data.directions),
        data.responses ? one("responses", data.responses) : el("p", { class: "note" }, "Responses were not measured."),
      ),
    );
  };

  T.draw.selection_scores = (root, data) => {
    const all = data.winners
      .map((w) => [w[1], w[2]])
      .concat(data.random, [data.unsteered])
      .flat()
      .map(T.value)
      .filter(Number.isFinite);
    const low = Math.min(...all),
      high = Math.max(...all),
      size = 380,
      pad = 46;
    const at = (v) => pad + ((T.value(v) - low) / (high - low || 1)) * (size - pad - 14),
      down = (v) => size - at(v);
    const svg = T.svg(
      "svg",
      {
        viewBox: `0 0 ${size} ${size}`,
        style: { maxWidth: "420px" },
        role: "img",
        "aria-label": "Validation against held-out scores",
      },
      T.svg("line", { class: "axis", x1: at(low), y1: down(low), x2: at(high), y2: down(high) }),
      [low, high].map((v) => [
        T.svg("text", { x: at(v), y: size - 26, "text-anchor": "middle" }, T.num(v)),
        T.svg("text", { x: pad - 8, y: down(v) + 4, "text-anchor": "end" }, T.num(v)),
      ]),
      T.svg("text", { x: size - 14, y: size - 8, "text-anchor": "end" }, "on the prompts that chose them"),
      T.svg("text", { x: 4, y: 12 }, "held out"),
    );
    const dot = (a, b, kind, says) =>
      T.add(svg, T.tip(T.svg("circle", { class: "fill-" + kind, cx: at(a), cy: down(b), r: 5 }), says));
    data.random.forEach(([a, b]) => dot(a, b, "base", `random: ${T.num(a)}, held out ${T.num(b)}`));
    dot(...data.unsteered, "less", "unsteered");
    data.winners.forEach(([v, a, b, label]) => dot(a, b, "more", `vector ${v} ${label}: ${T.num(a)}, held out ${T.num(b)}`));
    T.add(
      root,
      el("p", { class: "note" }, "Only held-out scores measure the winners: points under the line owe the rest to luck."),
      T.legend(["more", "winners"], ["base", "best random vectors"], ["less", "unsteered"]),
      svg,
    );
  };
})();
