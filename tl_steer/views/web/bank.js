/* Whole banks, and tables about them. */
(() => {
  const T = TlSteer, el = T.el;

  T.draw.bank_map = (root, data) => {
    const name = (i) => `${data.order[i]}${data.labels[i] ? " " + T.quoted(data.labels[i]) : ""}`;
    const one = (title, rows) => el("div", {}, el("h3", {}, title), T.map(rows, { limit: 1, width: 440, label: title, says: (x, y, v) => `${name(y)} and ${name(x)}: cosine ${T.num(v, true)}`, pick: T.open ? (x, y) => T.open(data.order[y]) : null }), T.scale("−1", "+1", true));
    T.add(root, el("p", { class: "note" }, "Cosine of every pair, vectors in the same clustered order in both. Pairs that are alike on the right and not on the left have the same effect by different ways.", data.order.length < data.total ? ` ${data.order.length} of ${data.total} vectors, those of largest objective.` : ""),
      el("div", { class: "split" }, one("Directions", data.directions), data.responses ? one("Responses", data.responses) : el("p", { class: "note" }, "Responses were not measured.")));
  };

  T.draw.selection_scores = (root, data) => {
    const all = data.winners.map((w) => [w[1], w[2]]).concat(data.random, [data.unsteered]).flat().map(T.value).filter(Number.isFinite);
    const low = Math.min(...all), high = Math.max(...all), size = 380, pad = 46;
    const at = (v) => pad + ((T.value(v) - low) / (high - low || 1)) * (size - pad - 14), down = (v) => size - at(v);
    const svg = T.svg("svg", { viewBox: `0 0 ${size} ${size}`, style: { maxWidth: "420px" }, role: "img", "aria-label": "Validation against held-out scores" },
      T.svg("line", { class: "axis", x1: at(low), y1: down(low), x2: at(high), y2: down(high) }),
      [low, high].map((v) => [T.svg("text", { x: at(v), y: size - 26, "text-anchor": "middle" }, T.num(v)), T.svg("text", { x: pad - 8, y: down(v) + 4, "text-anchor": "end" }, T.num(v))]),
      T.svg("text", { x: size - 14, y: size - 8, "text-anchor": "end" }, "on the prompts that chose them"), T.svg("text", { x: 4, y: 12 }, "held out"));
    const dot = (a, b, kind, says) => T.add(svg, T.tip(T.svg("circle", { class: "fill-" + kind, cx: at(a), cy: down(b), r: 5 }), says));
    data.random.forEach(([a, b]) => dot(a, b, "base", `random: ${T.num(a)}, held out ${T.num(b)}`));
    dot(...data.unsteered, "less", "unsteered");
    data.winners.forEach(([v, a, b, label]) => dot(a, b, "more", `vector ${v} ${label}: ${T.num(a)}, held out ${T.num(b)}`));
    T.add(root, el("p", { class: "note" }, "Only held-out scores measure the winners: points under the line owe the rest to luck."), T.legend(["more", "winners"], ["base", "best random vectors"], ["less", "unsteered"]), svg);
  };

  T.draw.sweep = (root, data) => {
    let by = 0;
    const body = el("div"), bar = el("div", { class: "row" }, data.quantities.map((q, i) => el("button", { type: "button", onclick: () => { by = i; show(); } }, q.name)));
    T.add(root, bar, body);
    const show = () => {
      [...bar.children].forEach((b, i) => b.setAttribute("aria-pressed", String(i === by)));
      const q = data.quantities[by], ends = q.values.flat().map(T.value).filter(Number.isFinite), low = Math.min(0, ...ends), high = Math.max(...ends, 1e-9);
      const order = q.values.map((_, i) => i).sort((a, b) => (T.value(q.values[b][0]) || 0) - (T.value(q.values[a][0]) || 0));
      const step = 24, width = 640, left = 150, x = (v) => left + ((T.value(v) - low) / (high - low || 1)) * (width - left - 70), height = order.length * step + 30;
      const svg = T.svg("svg", { viewBox: `0 0 ${width} ${height}`, style: { maxWidth: width + 80 + "px" }, role: "img", "aria-label": q.name });
      for (const v of [low, (low + high) / 2, high]) T.add(svg, T.svg("line", { class: "axis", x1: x(v), x2: x(v), y1: 18, y2: height }), T.svg("text", { x: x(v), y: 12, "text-anchor": "middle" }, T.num(v)));
      order.forEach((i, n) => {
        const [v, a, b] = q.values[i], y = 18 + (n + 0.5) * step, label = `${data.vectors[i]} ${data.labels[i]}`;
        T.add(svg, T.svg("text", { class: "strong", x: left - 12, y: y + 4, "text-anchor": "end" }, label.length > 22 ? label.slice(0, 21) + "…" : label));
        if (a !== null && b !== null) T.add(svg, T.svg("line", { class: "base", x1: x(a), x2: x(b), y1: y, y2: y }));
        if (Number.isFinite(T.value(v))) T.add(svg, T.tip(T.svg("circle", { class: "fill-more", cx: x(v), cy: y, r: 5 }), `${label}: ${T.num(v)}${a !== null ? ` (${T.num(a)} to ${T.num(b)})` : ""}`));
        T.add(svg, T.svg("text", { x: width - 4, y: y + 4, "text-anchor": "end" }, T.num(v)));
      });
      T.put(body, el("h3", {}, q.name), svg);
    };
    show();
  };

  T.draw.alerts = (root, data) => {
    const body = el("div", { style: { marginTop: "16px" } }), many = data.alerts.length > 1;
    const list = many && el("table", { class: "plain" }, el("tbody", {}, data.alerts.map((one, i) => el("tr", {},
      el("td", {}, el("button", { type: "button", onclick: () => show(i) }, one.title || `alert ${i}`)),
      el("td", { class: "num", style: { whiteSpace: "nowrap" } }, one.request.slice(0, 8)), el("td", {}, one.tokens.filter((t, j) => one.fired[j] && t !== "").slice(0, 6).map((t) => T.word(t)))))));
    const show = (i) => {
      if (list) [...list.querySelectorAll("button")].forEach((b, j) => b.setAttribute("aria-pressed", String(i === j)));
      T.put(body); alert(body, data.alerts[i]);
    };
    T.add(root, data.left_out > 0 && el("p", { class: "note" }, `${data.left_out} older alerts are left out.`), list, body);
    show(data.alerts.length - 1);
  };

  const alert = (root, data) => {
    const n = data.scores.length, width = 900, height = 220, left = 44;
    if (data.title) T.add(root, el("h3", {}, data.title));
    if (!n) { T.add(root, el("p", { class: "note" }, "No token was scored: this is about the traffic as a whole.")); return; }
    const finite = data.scores.concat(data.thresholds).map(T.value).filter(Number.isFinite), low = Math.min(0, ...finite), high = Math.max(...finite, 1e-9);
    const x = (i) => left + ((i + 0.5) / n) * (width - left - 8), y = (v) => 190 - ((T.value(v) - low) / (high - low || 1)) * 175;
    const says = (i) => `${[data.places[i], data.tokens[i] && T.quoted(data.tokens[i])].filter(Boolean).join(" ") || "token " + i}: ${T.num(data.scores[i])}${data.vectors[i] ? ", nearest vector " + data.vectors[i] : ""}`;
    const svg = T.svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Scores over tokens" });
    for (const v of [low, high]) T.add(svg, T.svg("line", { class: "axis", x1: left, x2: width, y1: y(v), y2: y(v) }), T.svg("text", { x: left - 6, y: y(v) + 4, "text-anchor": "end" }, T.num(v)));
    const path = (values) => { let open = false; return values.map((v, i) => { const ok = Number.isFinite(T.value(v)), c = ok ? `${open ? "L" : "M"}${x(i)} ${y(v)}` : ""; open = ok; return c; }).join(""); };
    const across = Number.isFinite(T.value(data.thresholds[0])) && data.thresholds.every((v) => v === data.thresholds[0]);
    T.add(svg, T.svg("path", { class: "base", d: path(data.scores) }), T.svg("path", { class: "less dash", "stroke-width": 1.5, d: across ? `M${left} ${y(data.thresholds[0])}L${width - 8} ${y(data.thresholds[0])}` : path(data.thresholds) }));
    data.scores.forEach((v, i) => { if (Number.isFinite(T.value(v))) T.add(svg, T.tip(T.svg("circle", { class: data.fired[i] ? "fill-less" : "fill-base", cx: x(i), cy: y(v), r: data.fired[i] ? 5 : 3 }), says(i))); });
    if (n <= 24) data.places.forEach((place, i) => T.add(svg, T.svg("text", { x: x(i), y: 212, "text-anchor": "middle" }, place)));
    const top = T.most(data.scores) || 1;
    T.add(root, el("p", { class: "note" }, `${data.fired.filter(Boolean).length} of ${n} tokens fired.`), T.legend(["base", "score"], ["less", "threshold, and what fired"]), svg);
    if (data.tokens.some((t) => t !== "")) T.add(root, T.tokens(data.tokens.map((t, i) => t || data.places[i] || "·"), { share: (i) => (data.fired[i] ? -0.9 : (T.value(data.scores[i]) / top) * 0.6), says: (i) => `score ${T.num(data.scores[i])}${data.fired[i] ? ", fired" : ""}${data.vectors[i] ? ", nearest vector " + data.vectors[i] : ""}` }));
  };
})();
