/* A monitor at a glance: scores over tokens, histograms, errors of both kinds, calibration, alerts. */
(() => {
  const T = TlSteer, el = T.el;
  const COLOURS = { calibration: "ink", clean: "base", steered: "more" };

  T.draw.monitor = (root, data) => {
    T.add(
      root,
      data.promise.map((said, i) => el("p", { class: "note" }, data.promise.length > 1 && `Category ${i}: `, said + ".")),
    );
    const panel = (title, draw) => {
      const box = el("section", {}, el("h3", {}, title));
      draw(box);
      return box;
    };
    T.add(
      root,
      el(
        "div",
        { class: "charts" },
        data.tokens.length > 0 && panel("Scores over tokens", (box) => overTokens(box, data)),
        panel("Scores of requests", (box) => histograms(box, data)),
        data.roc.length > 0 && panel("Detections and false alarms", (box) => T.monitor.roc(box, data)),
        data.calibration && panel("Promised and observed false alarms", (box) => T.monitor.calibration(box, data.calibration)),
        data.roc.length > 0 && panel(`Alarms at ${T.share(data.alpha)}`, (box) => T.add(box, T.monitor.rates(data))),
        data.time.length > 0 && panel("Alerts over time (UTC)", (box) => T.monitor.overTime(box, data)),
      ),
    );
  };

  /* scores over tokens */
  const overTokens = (root, data) => {
    const picks = data.tokens.flatMap((group) => group.requests.map((one) => ({ ...one, group: group.name })));
    const asked = T.at.get("r"),
      named = (one) => `${one.group}.${one.row}`;
    const box = el(
      "select",
      { "aria-label": "Request" },
      data.tokens.map((group) =>
        el(
          "optgroup",
          { label: `${group.n} ${group.name} requests` },
          group.requests.map((one) =>
            el(
              "option",
              { value: `${group.name}.${one.row}` },
              `${group.name} ${one.row}: score ${T.num(one.statistic)}, p ${T.num(one.p_values)}`,
            ),
          ),
        ),
      ),
    );
    const chart = el("div"),
      told = el("p", { class: "note", role: "status" });
    const show = () => {
      const one = picks.find((each) => named(each) === box.value) || picks[0];
      T.put(chart, tokensChart(data, one));
      told.textContent = verdict(data, one);
    };
    box.addEventListener("change", () => {
      T.at.set({ r: box.value });
      show();
    });
    box.value = picks.some((one) => named(one) === asked) ? asked : named(typical(data.tokens));
    const rows = () => [
      ["group", "token", "5 %", "median", "95 %"],
      ...data.tokens.flatMap((g) => g.quantiles[0].map((_, i) => [g.name, i, ...g.quantiles.map((q) => T.value(q[i]))])),
    ];
    T.add(
      root,
      el("div", { class: "row" }, el("label", { class: "small" }, "request ", box)),
      T.figure(
        "scores over tokens",
        [
          T.lines(
            ...data.tokens.map((g) => [COLOURS[g.name], `${g.name}: median, 90 %`]),
            ["one", "the request"],
            ["less", "threshold of an alert", "5 4"],
            known(data) && ["less", "of the known parts", "1.5 3"],
          ),
          chart,
        ],
        rows,
      ),
      told,
    );
    show();
  };
  /* the middle one of the steered requests, or of what there is */
  const typical = (groups) => {
    const { name, requests } = groups.find((group) => group.name === "steered") || groups[0];
    return { ...requests[Math.floor(requests.length / 2)], group: name };
  };
  const known = (data) => data.thresholds.some(([, limit]) => Number.isFinite(T.value(limit)));

  const tokensChart = (data, one) => {
    const length = Math.max(1, ...data.tokens.map((g) => g.quantiles[0].length)),
      limits = data.thresholds[one.category] || [];
    const [low, high] = T.span([...data.tokens.flatMap((g) => g.quantiles.flat()), ...one.scores, ...limits], 0);
    const every = Math.max(1, Math.ceil(length / 10)),
      ticks = Array.from({ length }, (_, i) => i).filter((i) => i % every === 0);
    const plot = T.plot({
      x: { low: -0.3, high: length - 0.7, ticks, says: (i) => (i ? String(i) : "prompt"), label: "generated token" },
      y: { low, high: high * 1.04, label: "score, nats" },
      label: "Scores over tokens",
    });
    for (const { name, quantiles } of data.tokens) {
      const lines = quantiles.map((values) => values.map((v, i) => [i, v]));
      plot.band(lines[0], lines[2], "shade-" + COLOURS[name]);
      plot.line(lines[1], COLOURS[name]);
    }
    if (Number.isFinite(T.value(limits[0]))) plot.across(limits[0], "less", { "stroke-dasharray": "5 4" });
    if (Number.isFinite(T.value(limits[1]))) plot.across(limits[1], "less", { "stroke-dasharray": "1.5 3" });
    plot.line(
      one.scores.map((v, i) => [i, v]),
      "one",
    );
    one.scores.forEach((v, i) => {
      if (!Number.isNaN(T.value(v)))
        T.tip(plot.dot([i, v], "fill-one", 3.5), `${i ? "token " + i : "the prompt's end"}: ${T.num(v)}`);
    });
    return plot.node;
  };
  const verdict = (data, one) => {
    const [limit, ofKnown] = data.thresholds[one.category] || [],
      alarmed = T.value(one.p_values) <= data.alpha;
    const kind = !alarmed
      ? "no alert"
      : known(data) && T.value(one.known_p) <= data.alpha
        ? "an alert, known perturbation"
        : "an alert, unknown anomaly";
    const parts = known(data)
      ? ` Its known parts: ${T.num(one.known)} (threshold ${T.num(ofKnown)}, p ${T.num(one.known_p)}).`
      : "";
    return `Score ${T.num(one.statistic)} (threshold ${T.num(limit)}, p ${T.num(one.p_values)}): ${kind}.${parts}`;
  };

  /* scores of requests */
  const histograms = (root, data) => {
    const { edges, groups } = data.scores,
      sum = (g) => g.counts.reduce((a, b) => a + b, 0);
    const shares = groups.map((g) => g.counts.map((n) => n / Math.max(1, sum(g) + g.lost)));
    const plot = T.plot({
      x: { low: edges[0], high: edges[edges.length - 1], label: "score of a request, nats" },
      y: { low: 0, high: Math.max(0.01, ...shares.flat()) * 1.06, says: T.share, label: "share of requests" },
      label: "Histograms of scores",
    });
    groups.forEach((g, k) => {
      const steps = shares[k].flatMap((v, i) => [
        [edges[i], v],
        [edges[i + 1], v],
      ]);
      if (g.name === "steered")
        plot.band(
          steps,
          steps.map(([x]) => [x, 0]),
          "shade-more",
        );
      plot.line(steps, COLOURS[g.name], g.name === "calibration" ? { "stroke-dasharray": "3 2" } : {});
    });
    data.thresholds.slice(0, 8).forEach(([limit]) => plot.down(limit, "less", { "stroke-dasharray": "5 4" }));
    edges.slice(1).forEach((to, i) => {
      const left = plot.x(edges[i]),
        hover = plot.node.appendChild(
          T.svg("rect", {
            class: "hover",
            x: left,
            width: Math.max(1, plot.x(to) - left),
            y: plot.box.top,
            height: plot.box.base - plot.box.top,
          }),
        );
      T.tip(hover, `${T.num(edges[i])} to ${T.num(to)}: ${groups.map((g) => `${g.name} ${g.counts[i]}`).join(", ")}`);
    });
    const lost = groups.filter((g) => g.lost);
    const named = T.lines(
      ...groups.map((g) => [COLOURS[g.name], `${g.name} (${sum(g) + g.lost})`, g.name === "calibration" ? "3 2" : null]),
      ["less", `threshold at ${T.share(data.alpha)}`, "5 4"],
    );
    T.add(
      root,
      T.figure("histograms of scores", [named, plot.node], () => [
        ["from", "to", ...groups.map((g) => g.name)],
        ...edges.slice(1).map((to, i) => [edges[i], to, ...groups.map((g) => g.counts[i])]),
      ]),
      lost.length > 0 &&
        el(
          "p",
          { class: "note" },
          lost.map((g) => `${g.lost} ${g.name} requests have no score. `),
        ),
    );
  };
})();
