/* Tokens, bars and small lines: what our own pictures are drawn with. */
(() => {
  const T = TlSteer, el = T.el;

  /* One scale of colour for every picture and its legend: more and less of the same thing, on whatever the
     page's paper is. Depth grows with the root of the share of the largest value, so that small changes are
     seen beside large ones. Under text it stays shallow enough to read on. */
  T.UNDER_TEXT = 0.55;
  T.depth = (share, strength = 1) => {
    const s = Number.isNaN(share) ? 0 : Math.min(1, Math.abs(share));  // infinite is deepest
    return Math.sqrt(s) * strength;
  };
  T.tint = (share, strength = T.UNDER_TEXT) =>
    `rgba(var(${share < 0 ? "--less" : "--more"}), ${T.depth(share, strength).toFixed(3)})`;

  /* What a number looks like as a ground: { class, style } for T.el. Infinity has the deepest colour and a
     mark; what is no number is hatched, never blank, which would mean "no change"; less than nothing has
     stripes, so that the sign outlives a photocopier. */
  const less = (v) => v < 0, infinite = (v) => Math.abs(v) === Infinity;
  const HATCH = "repeating-linear-gradient(-45deg, var(--hatch) 0 1px, transparent 1px 4px)";
  const STRIPES = "repeating-linear-gradient(0deg, rgba(var(--less), .4) 0 1px, transparent 1px 4px)";
  T.painted = (share, strength) => {
    if (Number.isNaN(share)) return { class: "missing", style: { backgroundImage: HATCH } };
    const style = { backgroundColor: T.tint(Math.max(-1, Math.min(1, share)), strength) };
    if (less(share)) style.backgroundImage = STRIPES;
    return { class: [infinite(share) && "infinite", less(share) && "falls"].filter(Boolean).join(" "), style };
  };
  /* Says what the marks mean, where there are any; otherwise nothing. */
  T.oddities = (values) => {
    const all = values.map(T.value), items = [];
    if (all.some(infinite)) items.push(["infinite", "infinite"]);
    if (all.some(Number.isNaN)) items.push(["missing", "no number"]);
    if (!items.length) return null;
    return el("div", { class: "legend odd" }, items.map(([kind, text]) =>
      el("span", {}, el("i", T.painted(kind === "missing" ? NaN : Infinity, 1)), text)));
  };

  /* Tokens of a prompt, tinted; each can be picked where there is something to pick (arrow keys walk).
     They are inline text without gaps, so that the browser's own search finds words across them. */
  T.tokens = (tokens, { share = () => 0, says = () => "", pick = null, mark = () => "", picked = -1 } = {}) => {
    const box = el("div", { class: "tokens", role: pick ? "toolbar" : null, "aria-label": pick ? "Tokens of the prompt" : null });
    const nodes = tokens.map((text, i) => {
      const ground = T.painted(share(i), T.UNDER_TEXT), label = says(i);
      const node = el("span", {
        class: ["token", mark(i), ground.class].filter(Boolean).join(" "), role: pick ? "button" : null,
        "aria-pressed": pick ? String(i === picked) : null, style: ground.style,
        tabindex: pick ? (i === Math.max(picked, 0) ? "0" : "-1") : null,
      }, T.token(text));
      if (label) { T.tip(node, label); if (pick) node.setAttribute("aria-label", T.token(text) + ": " + label); }
      box.append(node);
      if (text.includes("\n")) box.append(el("br"));
      return node;
    });
    T.add(box, T.oddities(tokens.map((_, i) => share(i))));
    if (pick) pickable(box, nodes, pick);
    return box;
  };
  const pickable = (box, nodes, pick) => {
    const choose = (i) => {
      nodes.forEach((node, j) => { node.setAttribute("aria-pressed", String(i === j)); node.tabIndex = i === j ? 0 : -1; });
      pick(i);
    };
    nodes.forEach((node, i) => node.addEventListener("click", () => { node.focus(); choose(i); }));
    box.addEventListener("keydown", (event) => {
      const at = nodes.indexOf(document.activeElement);
      const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: nodes.length - 1, Enter: at, " ": at }[event.key];
      if (at < 0 || to === undefined || !nodes[to]) return;
      event.preventDefault(); event.stopPropagation(); nodes[to].focus(); choose(to);
    });
  };

  /* The legend of T.tint: shares run evenly across, and have the colours that they have in the picture. */
  T.scale = (low, high, two, strength = 1) => {
    const steps = Array.from({ length: 13 }, (_, i) => (i / 12) ** 2);  // depth is even between these
    const ends = two ? [...steps.slice(1).reverse().map((s) => -s), ...steps] : steps;
    const place = (s) => ((two ? (s + 1) / 2 : s) * 100).toFixed(2);
    const stops = ends.map((s) => `${T.tint(s, strength)} ${place(s)}%`).join(", ");
    return el("div", { class: "scale" }, low, el("i", { style: { background: `linear-gradient(90deg, ${stops})` } }), high);
  };
  T.legend = (...items) => el("div", { class: "legend" }, items.map(([kind, text]) => el("span", {}, el("i", { class: "k-" + kind }), text)));

  /* horizontal bars around zero, or from zero where nothing is below it */
  T.bars = (items, { limit = 0, signed = false, pick = null } = {}) => {
    const top = limit || T.most(items.map((item) => item.value)) || 1;
    const box = el("div", { class: "bars" });
    for (const item of items) {
      const v = T.value(item.value), share = Number.isNaN(v) ? 1 : Math.min(1, Math.abs(v) / top), painted = T.painted(v, 1);
      const style = { ...painted.style, width: share * (signed && !Number.isNaN(v) ? 50 : 100) + "%" };
      if (!Number.isNaN(v)) style.backgroundColor = `rgb(var(${less(v) ? "--less" : "--more"}))`;
      if (less(v)) style.backgroundImage = STRIPES.replaceAll("rgba(var(--less), .4)", "var(--paper)");
      style.left = signed && !Number.isNaN(v) ? (less(v) ? 50 - share * 50 : 50) + "%" : "0";
      T.add(box,
        el(pick ? "button" : "span", { class: "name", type: pick ? "button" : null, onclick: pick ? () => pick(item) : null, "aria-pressed": pick ? String(!!item.picked) : null }, item.name),
        el("span", { class: "track" }, signed && el("span", { class: "zero", style: { left: "50%" } }), el("span", { class: "bar " + painted.class, style })),
        el("span", { class: "num" }, item.says || T.num(item.value, signed)));
    }
    T.add(box, T.oddities(items.map((item) => item.value)));
    return box;
  };

  /* A small line, or bars. It breaks where there is no number, and says ∞ where there is no end. */
  T.spark = (values, { width = 96, height = 22, bars = false, label = "" } = {}) => {
    const v = values.map(T.value), finite = v.filter(Number.isFinite), top = T.most(v) || 1, low = Math.min(0, ...finite);
    const step = width / Math.max(v.length, 1), at = (n) => Math.max(low, Math.min(top, n));
    const x = (i) => (bars ? i * step : v.length > 1 ? (i / (v.length - 1)) * (width - 4) + 2 : width / 2);
    const y = (n) => height - 2 - ((at(n) - low) / (top - low)) * (height - 4);
    const odd = v.length - finite.length, says = label + (odd ? `; ${odd} of ${v.length} infinite (∞) or no number (shaded)` : "");
    const root = T.svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": says });
    const bar = (n, i) => T.svg("rect", { class: less(n) ? "fill-less" : "fill-more", x: x(i), width: Math.max(0.8, step - 0.6),
      y: Math.min(y(n), y(0)), height: Math.max(0.5, Math.abs(y(n) - y(0))) });
    if (bars) T.add(root, v.map((n, i) => !Number.isNaN(n) && bar(n, i)));
    else T.add(root, T.svg("path", { class: "more", "stroke-width": 1.5, d: line(v, x, y) }));
    v.forEach((n, i) => {
      if (Number.isNaN(n)) T.add(root, T.svg("rect", { class: "gap", x: x(i) - (bars ? 0 : step / 2), width: Math.max(1.5, step), y: 0, height }));
      else if (infinite(n)) T.add(root, T.svg("text", { class: "endless", x: x(i) + (bars ? step / 2 : 0), y: less(n) ? height : 8, "text-anchor": "middle" }, "∞"));
    });
    return odd ? T.tip(root, says) : root;
  };
  const line = (v, x, y) => {
    let open = false;
    return v.map((n, i) => {
      const piece = Number.isNaN(n) ? "" : `${open ? "L" : "M"}${x(i).toFixed(1)} ${y(n).toFixed(1)}`;
      open = !Number.isNaN(n);
      return piece;
    }).join("");
  };
})();
