/* A monitor's alerts over time. */
(() => {
  const T = TlSteer, el = T.el;
  const KINDS = {
    "known perturbation": "more",
    "unknown anomaly": "less",
    "could not be scored": "ink",
    drift: "base",
    other: "base",
  };

  /* alerts over time */
  const said = (at, unit) => (unit === "hour" ? T.when(at).slice(5, 16) : T.when(at).slice(0, 10));
  const overTime = (root, data) => {
    const chart = el("div"),
      names = data.time.map((bins) => bins.unit),
      kinds = data.time[0].kinds.map(([kind]) => kind),
      asked = T.at.get("by");
    const preferred = (
      data.time.find((bins) => (bins.requests || bins.kinds[0]?.[1] || []).length <= 96) || data.time[data.time.length - 1]
    ).unit;
    let shown = data.time[0];
    const [bar, begin] = T.choice(
      names,
      (name) => "by " + name,
      "Bins",
      names.includes(asked) ? asked : preferred,
      (name) => {
        if (name !== preferred || asked) T.at.set({ by: name });
        shown = data.time.find((bins) => bins.unit === name);
        T.put(chart, timeChart(shown, data.level));
      },
    );
    const named = T.lines(
      ...kinds.map((kind) => [KINDS[kind], kind]),
      data.time[0].requests && ["one", `${T.share(data.level)} of the requests: false alarms, if all were clean`, "4 3"],
    );
    T.add(
      root,
      names.length > 1 && bar,
      T.figure("alerts over time", [named, chart], () => [
        ["from (UTC)", ...kinds, "requests"],
        ...counts(shown).map((_, i) => [
          T.when(shown.start + i * shown.width),
          ...shown.kinds.map(([, n]) => n[i]),
          shown.requests && shown.requests[i],
        ]),
      ]),
    );
    begin();
  };
  const counts = (bins) => bins.requests || (bins.kinds[0] ? bins.kinds[0][1] : []);
  const timeChart = (bins, level) => {
    const n = counts(bins).length,
      total = Array.from({ length: n }, (_, i) => bins.kinds.reduce((sum, [, counted]) => sum + counted[i], 0));
    const expected = bins.requests && bins.requests.map((asked) => asked * level),
      [, high] = T.span(total.concat(expected || []), 0);
    const every = Math.max(1, Math.ceil(n / 4)),
      ticks = Array.from({ length: n }, (_, i) => i).filter((i) => i % every === 0);
    const plot = T.plot({
      x: { low: -0.5, high: n - 0.5, ticks, says: (i) => said(bins.start + i * bins.width, bins.unit) },
      y: { low: 0, high: high * 1.05, label: "alerts" },
      label: `Alerts by ${bins.unit}`,
    });
    const wide = Math.max(1, Math.min(48, plot.x(1) - plot.x(0) - 1.5));
    total.forEach((_, i) => {
      let from = 0;
      for (const [kind, counted] of bins.kinds) {
        if (!counted[i]) continue;
        const top = plot.y(from + counted[i]);
        T.add(
          plot.node,
          T.svg("rect", {
            class: "fill-" + KINDS[kind],
            x: plot.x(i) - wide / 2,
            width: wide,
            y: top,
            height: plot.y(from) - top,
          }),
        );
        from += counted[i];
      }
    });
    if (expected)
      plot.line(
        expected.flatMap((v, i) => [
          [i - 0.5, v],
          [i + 0.5, v],
        ]),
        "one",
        { "stroke-dasharray": "4 3" },
      );
    total.forEach((count, i) => {
      const told = [
        `${said(bins.start + i * bins.width, bins.unit)}: ${count} alerts`,
        ...bins.kinds.filter(([, c]) => c[i]).map(([kind, c]) => `${kind} ${c[i]}`),
        bins.requests && `${bins.requests[i]} requests`,
      ]
        .filter(Boolean)
        .join(", ");
      T.add(
        plot.node,
        T.tip(
          T.svg("rect", {
            class: "hover",
            x: plot.x(i) - wide / 2,
            width: wide,
            y: plot.box.top,
            height: plot.box.base - plot.box.top,
          }),
          told,
        ),
      );
    });
    return plot.node;
  };

  T.monitor = { ...T.monitor, overTime };
})();
