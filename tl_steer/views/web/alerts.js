/* Alerts of a monitor: scores over tokens, and what fired. */
(() => {
  const T = TlSteer, el = T.el;

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
