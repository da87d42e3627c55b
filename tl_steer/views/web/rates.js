/* How often a monitor is right: detections against false alarms, and its calibration. */
(() => {
  const T = TlSteer, el = T.el;
  const DASHES = [null, "7 3", "2 3", "8 3 2 3", "12 4", "4 2"];

  /* detections against false alarms */
  const AXES = { log: "log axis", linear: "linear", det: "DET" };
  const TICKS = [0.001, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99];
  const area = (curve) => T.value(curve.area).toFixed(3);
  const curveKind = (k) => (k ? "control" : "more");
  const roc = (root, data) => {
    const chart = el("div"),
      asked = T.at.get("axis");
    const [bar, begin] = T.choice(
      Object.keys(AXES),
      (name) => AXES[name],
      "Axes",
      Object.hasOwn(AXES, asked || "") ? asked : "log",
      (name) => {
        if (name !== "log" || asked) T.at.set({ axis: name === "log" ? null : name });
        T.put(chart, rocChart(data, name));
      },
    );
    const named = T.lines(
      ...data.roc.map((c, k) => [curveKind(k), `${T.short(c.name)}, area ${area(c)}`, DASHES[k % DASHES.length]]),
      ["base", "by chance", "2 4"],
    );
    T.add(
      root,
      bar,
      T.figure("detections and false alarms", [named, chart], () => [
        ["scores", "false alarms", "detections"],
        ...data.roc.flatMap((c) => c.points.map((point) => [c.name, ...point])),
      ]),
      el(
        "p",
        { class: "note" },
        `Dots: alarms at ${T.share(data.alpha)}, where a category's own threshold decides. At the left edge: none of ${data.roc[0].sizes[0]} clean requests.`,
      ),
    );
    begin();
  };
  const rocChart = (data, axes) => {
    const [n, m] = data.roc[0].sizes,
      least = axes === "linear" ? 0 : 0.5 / n,
      det = axes === "det";
    const x = {
      log: { low: least, high: 1, scale: "log" },
      linear: { low: 0, high: 1 },
      det: { low: least, high: 0.99, scale: "probit", ticks: TICKS.filter((v) => v > least) },
    }[axes];
    const y = det
      ? {
          low: Math.min(0.5 / m, 0.01),
          high: 0.99,
          scale: "probit",
          ticks: TICKS.filter((v) => v > Math.min(0.5 / m, 0.01)),
          label: "missed",
        }
      : { low: 0, high: 1, label: "detected" };
    const plot = T.plot({
      x: { ...x, says: T.share, label: "false alarms" },
      y: { ...y, says: T.share },
      label: `Detections against false alarms, ${AXES[axes]}`,
    });
    const at = ([f, t]) => [f, det ? 1 - t : t];
    const chance = Array.from({ length: 80 }, (_, i) => (axes === "log" ? least ** (1 - i / 79) : 0.001 + 0.998 * (i / 79)));
    plot.line(
      chance.map((p) => at([p, p])),
      "base",
      { "stroke-dasharray": "2 4", "stroke-width": 1 },
    );
    data.roc.forEach((curve, k) => {
      const line = plot.line(curve.points.map(at), curveKind(k), { "stroke-dasharray": DASHES[k % DASHES.length] });
      const dot = plot.dot(at([curve.false[0], curve.detected[0]]), k ? "fill-control" : "fill-more", 5);
      const said = `${curve.name}: area ${area(curve)}; at ${T.share(data.alpha)}, ${T.share(curve.detected[0])} detected and ${T.share(curve.false[0])} false alarms`;
      for (const node of [line, dot]) T.tip(node, said);
    });
    return plot.node;
  };
  const rates = (data) => {
    const said = ([share, low, high]) => `${T.share(share)} (${T.share(low)}–${T.share(high)})`;
    const names = ["scores", "detected", "false alarms", "area"];
    return T.figure(
      "detections and false alarms at the level",
      el(
        "div",
        { class: "wide" },
        el(
          "table",
          { class: "rates" },
          el(
            "thead",
            {},
            el(
              "tr",
              {},
              names.map((name, i) => el("th", { scope: "col", class: i ? "num" : null }, name)),
            ),
          ),
          el(
            "tbody",
            {},
            data.roc.map((c) =>
              el(
                "tr",
                {},
                el("th", { scope: "row" }, c.name),
                [said(c.detected), said(c.false), area(c)].map((text) => el("td", { class: "num" }, text)),
              ),
            ),
          ),
        ),
        el(
          "p",
          { class: "note" },
          `Of ${data.roc[0].sizes[1]} steered and ${data.roc[0].sizes[0]} clean requests, with 95 % intervals (Clopper and Pearson).`,
        ),
      ),
      () => [
        [...names, "detected low", "detected high", "false low", "false high"],
        ...data.roc.map((c) => [c.name, c.detected[0], c.false[0], c.area, ...c.detected.slice(1), ...c.false.slice(1)]),
      ],
    );
  };

  /* calibration */
  const calibration = (root, data) => {
    const { promised, observed, within, traffic } = data,
      least = promised[0],
      floor = Math.min(least, 0.5 / Math.max(data.n || 1, data.requests || 1));
    const plot = T.plot({
      x: { low: least, high: 1, scale: "log", says: T.share, label: "promised at most" },
      y: { low: floor, high: 1, scale: "log", says: T.share, label: "observed" },
      label: "Promised and observed false alarms",
    });
    const line = (values) => values.map((v, i) => [promised[i], v]);
    if (within) plot.band(line(within[0]), line(within[1]), "shade-base");
    plot.line(
      [
        [least, least],
        [1, 1],
      ],
      "base",
      { "stroke-dasharray": "2 4", "stroke-width": 1 },
    );
    if (traffic) plot.line(line(traffic), "less", { "stroke-dasharray": "7 3" });
    if (observed) plot.line(line(observed), "more");
    promised.forEach((p, i) => {
      const said = [
        `promised ${T.share(p)}`,
        observed &&
          `observed ${T.share(observed[i])} of clean requests (95 % of tests: ${T.share(within[0][i])} to ${T.share(within[1][i])})`,
        traffic && `flagged ${T.share(traffic[i])} of the log`,
      ]
        .filter(Boolean)
        .join("; ");
      T.tip(plot.dot([p, (observed || traffic)[i]], observed ? "fill-more" : "fill-less", 2.5), said);
    });
    const outside = observed ? observed.filter((v, i) => v > within[1][i]).length : 0;
    const named = T.lines(
      observed && ["more", `${data.n} clean requests`],
      within && ["band", "95 % of such tests"],
      traffic && ["less", `traffic of the log (${data.requests})`, "7 3"],
      ["base", "as promised", "2 4"],
    );
    T.add(
      root,
      T.figure("promised and observed false alarms", [named, plot.node], () => [
        ["promised", "observed", "95 % from", "to", "log"],
        ...promised.map((p, i) => [
          p,
          observed && observed[i],
          within && within[0][i],
          within && within[1][i],
          traffic && traffic[i],
        ]),
      ]),
      outside > 0 &&
        el(
          "p",
          { class: "note warn" },
          `At ${outside} of ${promised.length} levels more clean requests are flagged than 95 % of such tests would: they may not be like those of calibration.`,
        ),
      observed && !outside && el("p", { class: "note" }, "Within what was promised."),
    );
  };

  T.monitor = { ...T.monitor, roc, rates, calibration };
})();
