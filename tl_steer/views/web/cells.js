/* A matrix as coloured cells, with marks and a legend. However many cells there are, the picture is a
   few paths, one for each depth of colour. */
(() => {
  const T = TlSteer, el = T.el, svg = T.svg;
  const DEPTHS = 64, LEAST = 0.1; // marks below this share of the largest are left out
  let made = 0;

  const kind = (raw) => {
    if (raw === undefined) return "none";
    const value = T.value(raw);
    return Number.isNaN(value) ? "missing" : Number.isFinite(value) ? "number" : "infinite";
  };
  const within = (band, x, y, value) => !!band && value >= T.value(band.low[y][x]) && value <= T.value(band.high[y][x]);

  /* Which cells have the same colour: places [x, y] by "kind depth". */
  const sorted = (values, top, band) => {
    const found = new Map();
    values.forEach((row, y) => row.forEach((raw, x) => {
      const what = kind(raw), value = T.value(raw), depth = Math.round(T.depth(value / top) * DEPTHS);
      if (what === "none" || (what !== "missing" && depth === 0)) return;
      const fill = within(band, x, y, value) ? "base" : value < 0 ? "less" : "more";
      const key = what === "missing" ? "missing 0" : `${fill} ${depth}`;
      if (!found.has(key)) found.set(key, []);
      found.get(key).push([x, y]);
    }));
    return found;
  };
  const squares = (places, size, inset) => {
    const side = size - 2 * inset - (size > 8 ? 1 : 0);
    return places.map(([x, y]) => `M${x * size + inset} ${y * size + inset}h${side}v${side}h${-side}z`).join("");
  };
  const hatch = (id) => svg("pattern",
    { id, width: 4, height: 4, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
    svg("line", { class: "grid-hatch", x1: 0, y1: 0, x2: 0, y2: 4 }));
  const infinite = (values, size) => {
    const middle = (i) => (i + 0.5) * size, high = Math.min(14, size + 2);
    const sign = (x, y) =>
      svg("text", { class: "grid-infinite", x: middle(x), y: middle(y), "font-size": high }, T.num(values[y][x]));
    return values.flatMap((row, y) => row.map((raw, x) => kind(raw) === "infinite" && sign(x, y)));
  };

  /* A line across what is less than nothing, so that the sign outlives a photocopier. */
  const across = (places, size) => {
    const side = size - (size > 8 ? 1 : 0);
    return places.map(([x, y]) => `M${x * size} ${y * size + Math.floor(side / 2)}h${side}v1h${-side}z`).join("");
  };

  /* undefined is left out, NaN is hatched, infinity has full colour and a mark; what lies within a band
     is small and grey. */
  T.cells = (values, { limit = 0, size = 4, band = null } = {}) => {
    const group = svg("g", {}), id = "grid-hatch-" + ++made;
    for (const [key, places] of sorted(values, limit || T.most(values.flat()) || 1, band)) {
      const [fill, depth] = key.split(" "), d = squares(places, size, fill === "base" ? Math.round(size * 0.22) : 0);
      if (fill === "missing") T.add(group, hatch(id), svg("path", { fill: `url(#${id})`, d }));
      else T.add(group, svg("path", { class: "fill-" + fill, "fill-opacity": (depth / DEPTHS).toFixed(3), d }));
      if (fill === "less" && size > 4) T.add(group, svg("path", { class: "grid-less", d: across(places, size) }));
    }
    return T.add(group, infinite(values, size));
  };

  /* Triangles in corners: the upper one for what is positive, the lower one for what is negative. */
  T.corners = (marks, size) => {
    const top = T.most(marks.flat()) || 1, gap = size > 8 ? 1 : 0;
    const triangle = (share, x, y) => {
      if (!(Math.abs(share) >= LEAST)) return "";
      const leg = size * (0.3 + 0.45 * Math.min(1, Math.abs(share))), up = share > 0;
      return `M${(x + 1) * size - gap} ${up ? y * size : (y + 1) * size - gap}h${-leg}l${leg} ${up ? leg : -leg}z`;
    };
    const d = marks.map((row, y) => row.map((raw, x) => triangle(T.value(raw) / top, x, y)).join("")).join("");
    return svg("path", { class: "grid-mark", d });
  };

  const key = (picture, text) =>
    el("span", { class: "grid-key" }, svg("svg", { width: 14, height: 14, "aria-hidden": "true" }, picture), text);
  const cell = (raw, more = {}) => T.cells([[raw]], { size: 14, ...more });

  /* What colours and marks mean, as they are drawn. */
  T.cellsLegend = (values, top, { band, marks, signed }) => {
    const all = values.flat(), any = (what) => all.some((raw) => kind(raw) === what);
    const two = signed || all.some((raw) => T.value(raw) < 0);
    return el("div", { class: "grid-legend" }, T.scale(two ? T.num(-top) : "0", T.num(top, two), two),
      band && key(cell(1, { band: { low: [[0]], high: [[1]] } }), band.says),
      marks && [key(T.corners([[1]], 14), marks.up), key(T.corners([[-1]], 14), marks.down)],
      any("missing") && key(cell(null), "no number"), any("infinite") && key(cell("inf"), "infinite"));
  };
})();
