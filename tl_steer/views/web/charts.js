/* Tokens, grids, bars and small lines: what our own pictures are drawn with. */
(() => {
  const T = TlSteer, el = T.el;

  /* One scale of colour for every picture and its legend: more and less of the same thing, on whatever the
     page's paper is. Depth grows with the root of the share of the largest value, so that small changes are
     seen beside large ones. Under text it stays shallow enough to read on. */
  T.UNDER_TEXT = 0.62;
  T.depth = (share, strength = 1) => {
    const s = Number.isNaN(share) ? 0 : Math.min(1, Math.abs(share));  // infinite is deepest
    return Math.sqrt(s) * strength;
  };
  T.tint = (share, strength = T.UNDER_TEXT) =>
    `rgba(var(${share < 0 ? "--less" : "--more"}), ${T.depth(share, strength).toFixed(3)})`;
  const channel = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).split(",").map(Number);

  /* tokens of a prompt, tinted; a button each where one can be picked (arrow keys walk) */
  T.tokens = (tokens, { share = () => 0, says = () => "", pick = null, mark = () => "", picked = -1 } = {}) => {
    const box = el("div", { class: "tokens", role: pick ? "toolbar" : null, "aria-label": pick ? "Tokens of the prompt" : null });
    const nodes = tokens.map((text, i) => {
      const node = el(pick ? "button" : "span", {
        class: "token " + mark(i), type: pick ? "button" : null, "aria-pressed": pick ? String(i === picked) : null,
        tabindex: pick ? (i === Math.max(picked, 0) ? "0" : "-1") : null, style: { background: T.tint(share(i)) },
      }, T.token(text));
      const label = says(i);
      if (label) { T.tip(node, label); if (pick) node.setAttribute("aria-label", T.token(text) + ": " + label); }
      box.append(node);
      if (text.includes("\n")) box.append(el("br"));
      return node;
    });
    const choose = (i) => {
      nodes.forEach((node, j) => { node.setAttribute("aria-pressed", String(i === j)); node.tabIndex = i === j ? 0 : -1; });
      pick(i);
    };
    if (pick) {
      nodes.forEach((node, i) => node.addEventListener("click", () => choose(i)));
      box.addEventListener("keydown", (event) => {
        const at = nodes.indexOf(document.activeElement);
        const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: nodes.length - 1 }[event.key];
        if (to === undefined || !nodes[to]) return;
        event.preventDefault(); event.stopPropagation(); nodes[to].focus(); choose(to);
      });
    }
    return box;
  };

  /* a matrix as pixels; redrawn when light turns to dark */
  T.map = (rows, { limit = 0, cell = 0, width = 360, says = () => "", pick = null, label = "Map", rings = [] } = {}) => {
    const height = rows.length, across = height ? rows[0].length : 0;
    const top = limit || T.most(rows.flat()) || 1;
    const size = cell || Math.max(3, Math.min(26, Math.floor(width / Math.max(across, 1))));
    const canvas = el("canvas", { width: Math.max(across, 1) * size, height: Math.max(height, 1) * size, role: "img", "aria-label": label });
    const paint = () => {
      const pen = canvas.getContext("2d"), more = channel("--more"), less = channel("--less");
      pen.clearRect(0, 0, canvas.width, canvas.height);
      rows.forEach((row, y) => row.forEach((raw, x) => {
        const v = T.value(raw) / top;
        if (!Number.isFinite(v)) return;
        const [r, g, b] = v < 0 ? less : more;
        pen.fillStyle = `rgba(${r}, ${g}, ${b}, ${T.depth(v).toFixed(3)})`;
        pen.fillRect(x * size, y * size, size - (size > 8 ? 1 : 0), size - (size > 8 ? 1 : 0));
      }));
      pen.lineWidth = 1.5; pen.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue("--ink");
      for (const [x, y] of rings) pen.strokeRect(x * size + 0.75, y * size + 0.75, size - 2.5, size - 2.5);
    };
    const place = (event) => {
      const box = canvas.getBoundingClientRect();
      const x = Math.floor(((event.clientX - box.left) / box.width) * across), y = Math.floor(((event.clientY - box.top) / box.height) * height);
      return x >= 0 && y >= 0 && x < across && y < height ? [x, y] : null;
    };
    T.tip(canvas, (event) => { const at = place(event); return at ? says(...at, rows[at[1]][at[0]]) : ""; });
    if (pick) canvas.addEventListener("click", (event) => { const at = place(event); if (at) pick(...at); });
    T.repaint(canvas, paint);
    return el("div", { class: "map" }, canvas);
  };
  const painters = [];
  T.repaint = (node, paint) => { painters.push([new WeakRef(node), paint]); paint(); };
  T.repaintAll = () => painters.forEach(([node, paint]) => { if (node.deref()) paint(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => T.repaintAll());

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
      const v = T.value(item.value), share = Number.isFinite(v) ? Math.min(1, Math.abs(v) / top) : 0;
      const style = { background: `rgb(var(${v < 0 ? "--less" : "--more"}))`, width: share * (signed ? 50 : 100) + "%" };
      if (signed) style.left = (v < 0 ? 50 - share * 50 : 50) + "%"; else style.left = "0";
      T.add(box, 
        el(pick ? "button" : "span", { class: "name", type: pick ? "button" : null, onclick: pick ? () => pick(item) : null, "aria-pressed": pick ? String(!!item.picked) : null }, item.name),
        el("span", { class: "track" }, signed && el("span", { class: "zero", style: { left: "50%" } }), el("span", { class: "bar", style })),
        el("span", { class: "num" }, item.says || T.num(item.value, signed)));
    }
    return box;
  };

  T.spark = (values, { width = 96, height = 22, bars = false, label = "" } = {}) => {
    const v = values.map((x) => { const n = T.value(x); return Number.isFinite(n) ? n : 0; }), top = T.most(v) || 1;
    const x = (i) => (v.length > 1 ? (i / (v.length - 1)) * (width - 4) + 2 : width / 2), y = (n) => height - 2 - (n / top) * (height - 4);
    const root = T.svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
    if (bars) v.forEach((n, i) => T.add(root, T.svg("rect", { class: "fill-more", x: (i * width) / v.length, width: Math.max(0.8, width / v.length - 0.6), y: y(n), height: Math.max(0.5, height - 2 - y(n)) })));
    else T.add(root, T.svg("path", { class: "more", "stroke-width": 1.5, d: v.map((n, i) => `${i ? "L" : "M"}${x(i).toFixed(1)} ${y(n).toFixed(1)}`).join("") }));
    return root;
  };
})();
