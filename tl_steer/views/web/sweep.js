/* What a sweep found of every vector. */
(() => {
  const T = TlSteer, el = T.el;

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
})();
