/* Axes with ticks, and lines, bands and points between them. */
(() => {
  const T = TlSteer;

  /* round numbers between two others: steps of 1, 2 or 5 times a power of ten */
  const linear = (low, high, most = 5) => {
    const raw = (high - low) / most,
      power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw * 0.999) || raw;
    const found = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9 && found.length < 20; i++)
      found.push(Number((i * step).toPrecision(12)));
    return found;
  };
  const decades = (low, high) => {
    const found = [],
      every = Math.max(1, Math.ceil(Math.log10(high / low) / 6));
    for (let k = Math.ceil(Math.log10(low) - 1e-9); k <= Math.log10(high) + 1e-9; k += every) found.push(Number(`1e${k}`));
    return found;
  };
  const round = (v) => (Math.abs(v) >= 1e5 || (v && Math.abs(v) < 1e-4) ? T.num(v) : String(v).replace("-", "−"));
  T.ticks = linear;
  T.tick = round;
  /* What an axis may be: the numbers as they are, their logarithms, or normal quantiles (Winitzki's
     approximation, by which points and ticks are placed alike). */
  const probit = (p) => {
    const x = 2 * p - 1,
      l = Math.log(1 - x * x),
      b = 2 / (Math.PI * 0.147) + l / 2;
    return Math.sign(x) * Math.sqrt(Math.sqrt(b * b - l / 0.147) - b);
  };
  const SCALES = { linear: (v) => v, log: Math.log10, probit };
  const axis = ({ low, high, scale = "linear", ticks = null }, from, to) => {
    const to01 = SCALES[scale],
      a = to01(low),
      b = to01(high);
    const inside = (v) => Math.max(low, Math.min(high, v));
    const place = (raw) => from + ((to01(inside(T.value(raw))) - a) / (b - a || 1)) * (to - from);
    place.ticks = ticks || (scale === "log" ? decades(low, high) : linear(low, high));
    return place;
  };

  /* How wide a picture may be, for its text to be as large as the page's. */
  T.room = (most) => Math.max(300, Math.min(most, document.getElementById("root").clientWidth || most));

  /* x and y: { low, high, scale, ticks, label, says }. What lies outside is drawn at the edge. */
  T.plot = ({ x, y, label, width = T.room(460), height = 280, left = 58, bottom = 38 }) => {
    const right = width - 20,
      top = 10,
      base = height - bottom;
    const px = axis(x, left, right),
      py = axis(y, base, top);
    const svg = T.svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label, class: "plot" });
    for (const v of px.ticks)
      T.add(
        svg,
        T.svg("line", { class: "axis", x1: px(v), x2: px(v), y1: top, y2: base }),
        T.svg("text", { x: px(v), y: base + 15, "text-anchor": "middle" }, (x.says || round)(v)),
      );
    for (const v of py.ticks)
      T.add(
        svg,
        T.svg("line", { class: "axis", x1: left, x2: right, y1: py(v), y2: py(v) }),
        T.svg("text", { x: left - 6, y: py(v) + 4, "text-anchor": "end" }, (y.says || round)(v)),
      );
    T.add(
      svg,
      T.svg("text", { x: (left + right) / 2, y: height - 5, "text-anchor": "middle" }, x.label || ""),
      y.label &&
        T.svg(
          "text",
          { x: 10, y: (top + base) / 2, "text-anchor": "middle", transform: `rotate(-90 10 ${(top + base) / 2})` },
          y.label,
        ),
    );
    const known = ([a, b]) => !Number.isNaN(T.value(a)) && !Number.isNaN(T.value(b));
    const at = ([a, b]) => `${px(a).toFixed(1)} ${py(b).toFixed(1)}`;
    const path = (points) => {
      let open = false;
      return points
        .map((point) => {
          const said = known(point) ? (open ? "L" : "M") + at(point) : "";
          open = known(point);
          return said;
        })
        .join("");
    };
    const put = (tag, attributes) => svg.appendChild(T.svg(tag, attributes));
    return {
      node: svg,
      x: px,
      y: py,
      box: { left, right, top, base, width, height },
      line: (points, kind, more) => put("path", { class: kind, d: path(points), ...more }),
      band: (low, high, kind) =>
        put("path", { class: kind, d: `M${[...low, ...high.slice().reverse()].filter(known).map(at).join("L")}Z` }),
      across: (v, kind, more) => put("line", { class: kind, x1: left, x2: right, y1: py(v), y2: py(v), ...more }),
      down: (v, kind, more) => put("line", { class: kind, x1: px(v), x2: px(v), y1: top, y2: base, ...more }),
      /* what is infinite is at the edge, and marked */
      dot: ([a, b], kind, r = 4) => {
        if (Math.abs(T.value(b)) === Infinity)
          T.add(svg, T.svg("text", { class: "strong infinite", x: px(a) + 8, y: py(b) + 12 }, T.num(b)));
        return put("circle", { class: kind, cx: px(a), cy: py(b), r });
      },
      text: ([a, b], said, more) => T.add(svg, T.svg("text", { x: px(a), y: py(b), ...more }, said)),
    };
  };

  /* A share as a tick says it: 5 %, 0.1 %. */
  T.share = (p) => (p === 0 ? "0\u00a0%" : T.percent(p).replace(/\.0(\s%)$/, "$1"));

  /* Nodes as one stop of the Tab key; arrow keys, Home and End walk them. */
  T.walk = (nodes) => {
    const move = (to) => {
      nodes.forEach((node) => node.setAttribute("tabindex", node === to ? "0" : "-1"));
    };
    nodes.forEach((node, i) => {
      node.addEventListener("focus", () => move(node));
      node.addEventListener("keydown", (event) => {
        const to = { ArrowDown: i + 1, ArrowRight: i + 1, ArrowUp: i - 1, ArrowLeft: i - 1, Home: 0, End: nodes.length - 1 }[
          event.key
        ];
        if (to === undefined || !nodes[to]) return;
        event.preventDefault();
        event.stopPropagation();
        nodes[to].focus();
      });
    });
    if (nodes.length) move(nodes[0]);
  };

  /* A line as it is drawn, for a legend. */
  const swatch = (kind, dash) =>
    T.svg(
      "svg",
      { width: 26, height: 10, viewBox: "0 0 26 10", class: "swatch", "aria-hidden": "true" },
      T.svg("line", { class: kind, "stroke-dasharray": dash || null, x1: 1, x2: 25, y1: 5, y2: 5 }),
    );
  T.lines = (...items) =>
    T.el(
      "div",
      { class: "legend" },
      items.filter(Boolean).map(([kind, said, dash]) => T.el("span", {}, swatch(kind, dash), said)),
    );
  /* Buttons of which one is pressed; gives the row of them, and what presses the first. */
  T.choice = (names, said, label, chosen, pick) => {
    const bar = T.el(
      "div",
      { class: "row", role: "group", "aria-label": label },
      names.map((name) => T.el("button", { type: "button", "data-name": name, onclick: () => show(name) }, said(name))),
    );
    const show = (name) => {
      [...bar.children].forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.name === name)));
      pick(name);
    };
    return [bar, () => show(chosen)];
  };

  /* The smallest and largest of what is known, with `also`; 0 and 1 where nothing is. */
  T.span = (values, ...also) => {
    let low = Infinity,
      high = -Infinity;
    for (const raw of [...also, ...values]) {
      const v = T.value(raw);
      if (Number.isFinite(v)) {
        low = Math.min(low, v);
        high = Math.max(high, v);
      }
    }
    return low > high ? [0, 1] : low === high ? [low, low + 1] : [low, high];
  };
})();
