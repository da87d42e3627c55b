/* A monitor at a glance: scores over tokens, histograms, errors of both kinds, calibration, alerts. */
(() => {
  const T = TlSteer, el = T.el;
  const DASHES = [null, "7 3", "2 3", "8 3 2 3", "12 4", "4 2"];
  const COLOURS = { calibration: "ink", clean: "base", steered: "more" };
  const KINDS = { "known perturbation": "more", "unknown anomaly": "less", "could not be scored": "ink", drift: "base", other: "base" };

  T.draw.monitor = (root, data) => {
    T.add(root, data.promise.map((said, i) => el("p", { class: "note" }, data.promise.length > 1 && `Category ${i}: `, said + ".")));
    const panel = (title, draw) => { const box = el("section", {}, el("h3", {}, title)); draw(box); return box; };
    T.add(root, el("div", { class: "charts" },
      data.tokens.length > 0 && panel("Scores over tokens", (box) => overTokens(box, data)),
      panel("Scores of requests", (box) => histograms(box, data)),
      data.roc.length > 0 && panel("Detections and false alarms", (box) => roc(box, data)),
      data.calibration && panel("Promised and observed false alarms", (box) => calibration(box, data.calibration)),
      data.roc.length > 0 && panel(`Alarms at ${T.share(data.alpha)}`, (box) => T.add(box, rates(data))),
      data.time.length > 0 && panel("Alerts over time (UTC)", (box) => overTime(box, data))));
  };

  /* A line as it is drawn, for a legend. */
  const swatch = (kind, dash) => T.svg("svg", { width: 26, height: 10, viewBox: "0 0 26 10", class: "swatch", "aria-hidden": "true" },
    T.svg("line", { class: kind, "stroke-dasharray": dash || null, x1: 1, x2: 25, y1: 5, y2: 5 }));
  const legend = (...items) => el("div", { class: "legend" }, items.filter(Boolean).map(([kind, said, dash]) => el("span", {}, swatch(kind, dash), said)));
  const choice = (names, said, label, chosen, pick) => {
    const bar = el("div", { class: "row", role: "group", "aria-label": label }, names.map((name) => el("button", { type: "button", "data-name": name, onclick: () => show(name) }, said(name))));
    const show = (name) => { [...bar.children].forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.name === name))); pick(name); };
    return [bar, () => show(chosen)];
  };

  /* scores over tokens */
  const overTokens = (root, data) => {
    const picks = data.tokens.flatMap((group) => group.requests.map((one) => ({ ...one, group: group.name })));
    const asked = T.at.get("r"), named = (one) => `${one.group}.${one.row}`;
    const box = el("select", { "aria-label": "Request" }, data.tokens.map((group) => el("optgroup", { label: `${group.n} ${group.name} requests` },
      group.requests.map((one) => el("option", { value: `${group.name}.${one.row}` }, `${group.name} ${one.row}: score ${T.num(one.statistic)}, p ${T.num(one.p_values)}`)))));
    const chart = el("div"), told = el("p", { class: "note", role: "status" });
    const show = () => {
      const one = picks.find((each) => named(each) === box.value) || picks[0];
      T.put(chart, tokensChart(data, one)); told.textContent = verdict(data, one);
    };
    box.addEventListener("change", () => { T.at.set({ r: box.value }); show(); });
    box.value = picks.some((one) => named(one) === asked) ? asked : named(typical(data.tokens));
    const rows = () => [["group", "token", "5 %", "median", "95 %"], ...data.tokens.flatMap((g) => g.quantiles[0].map((_, i) => [g.name, i, ...g.quantiles.map((q) => T.value(q[i]))]))];
    T.add(root, el("div", { class: "row" }, el("label", { class: "small" }, "request ", box)),
      T.figure("scores over tokens", [legend(...data.tokens.map((g) => [COLOURS[g.name], `${g.name}: median, 90 %`]), ["one", "the request"], ["less", "threshold of an alert", "5 4"], known(data) && ["less", "of the known parts", "1.5 3"]), chart], rows), told);
    show();
  };
  /* the middle one of the steered requests, or of what there is */
  const typical = (groups) => {
    const { name, requests } = groups.find((group) => group.name === "steered") || groups[0];
    return { ...requests[Math.floor(requests.length / 2)], group: name };
  };
  const known = (data) => data.thresholds.some(([, limit]) => Number.isFinite(T.value(limit)));

  const tokensChart = (data, one) => {
    const length = Math.max(1, ...data.tokens.map((g) => g.quantiles[0].length)), limits = data.thresholds[one.category] || [];
    const [low, high] = T.span([...data.tokens.flatMap((g) => g.quantiles.flat()), ...one.scores, ...limits], 0);
    const every = Math.max(1, Math.ceil(length / 10)), ticks = Array.from({ length }, (_, i) => i).filter((i) => i % every === 0);
    const plot = T.plot({ x: { low: -0.3, high: length - 0.7, ticks, says: (i) => (i ? String(i) : "prompt"), label: "generated token" }, y: { low, high: high * 1.04, label: "score, nats" }, label: "Scores over tokens" });
    for (const { name, quantiles } of data.tokens) {
      const lines = quantiles.map((values) => values.map((v, i) => [i, v]));
      plot.band(lines[0], lines[2], "shade-" + (COLOURS[name]));
      plot.line(lines[1], COLOURS[name]);
    }
    if (Number.isFinite(T.value(limits[0]))) plot.across(limits[0], "less", { "stroke-dasharray": "5 4" });
    if (Number.isFinite(T.value(limits[1]))) plot.across(limits[1], "less", { "stroke-dasharray": "1.5 3" });
    plot.line(one.scores.map((v, i) => [i, v]), "one");
    one.scores.forEach((v, i) => { if (!Number.isNaN(T.value(v))) T.tip(plot.dot([i, v], "fill-one", 3.5), `${i ? "token " + i : "the prompt's end"}: ${T.num(v)}`); });
    return plot.node;
  };
  const verdict = (data, one) => {
    const [limit, ofKnown] = data.thresholds[one.category] || [], alarmed = T.value(one.p_values) <= data.alpha;
    const kind = !alarmed ? "no alert" : known(data) && T.value(one.known_p) <= data.alpha ? "an alert, known perturbation" : "an alert, unknown anomaly";
    const parts = known(data) ? ` Its known parts: ${T.num(one.known)} (threshold ${T.num(ofKnown)}, p ${T.num(one.known_p)}).` : "";
    return `Score ${T.num(one.statistic)} (threshold ${T.num(limit)}, p ${T.num(one.p_values)}): ${kind}.${parts}`;
  };

  /* scores of requests */
  const histograms = (root, data) => {
    const { edges, groups } = data.scores, sum = (g) => g.counts.reduce((a, b) => a + b, 0);
    const shares = groups.map((g) => g.counts.map((n) => n / Math.max(1, sum(g) + g.lost)));
    const plot = T.plot({ x: { low: edges[0], high: edges[edges.length - 1], label: "score of a request, nats" }, y: { low: 0, high: Math.max(0.01, ...shares.flat()) * 1.06, says: T.share, label: "share of requests" }, label: "Histograms of scores" });
    groups.forEach((g, k) => {
      const steps = shares[k].flatMap((v, i) => [[edges[i], v], [edges[i + 1], v]]);
      if (g.name === "steered") plot.band(steps, steps.map(([x]) => [x, 0]), "shade-more");
      plot.line(steps, COLOURS[g.name], g.name === "calibration" ? { "stroke-dasharray": "3 2" } : {});
    });
    data.thresholds.slice(0, 8).forEach(([limit]) => plot.down(limit, "less", { "stroke-dasharray": "5 4" }));
    edges.slice(1).forEach((to, i) => {
      const left = plot.x(edges[i]), hover = plot.node.appendChild(T.svg("rect", { class: "hover", x: left, width: Math.max(1, plot.x(to) - left), y: plot.box.top, height: plot.box.base - plot.box.top }));
      T.tip(hover, `${T.num(edges[i])} to ${T.num(to)}: ${groups.map((g) => `${g.name} ${g.counts[i]}`).join(", ")}`);
    });
    const lost = groups.filter((g) => g.lost);
    const named = legend(...groups.map((g) => [COLOURS[g.name], `${g.name} (${sum(g) + g.lost})`, g.name === "calibration" ? "3 2" : null]), ["less", `threshold at ${T.share(data.alpha)}`, "5 4"]);
    T.add(root, T.figure("histograms of scores", [named, plot.node], () => [["from", "to", ...groups.map((g) => g.name)], ...edges.slice(1).map((to, i) => [edges[i], to, ...groups.map((g) => g.counts[i])])]),
      lost.length > 0 && el("p", { class: "note" }, lost.map((g) => `${g.lost} ${g.name} requests have no score. `)));
  };

  /* detections against false alarms */
  const AXES = { log: "log axis", linear: "linear", det: "DET" };
  const TICKS = [0.001, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99];
  const area = (curve) => T.value(curve.area).toFixed(3);
  const curveKind = (k) => (k ? "control" : "more");
  const roc = (root, data) => {
    const chart = el("div"), asked = T.at.get("axis");
    const [bar, begin] = choice(Object.keys(AXES), (name) => AXES[name], "Axes", Object.hasOwn(AXES, asked || "") ? asked : "log", (name) => {
      if (name !== "log" || asked) T.at.set({ axis: name === "log" ? null : name });
      T.put(chart, rocChart(data, name));
    });
    const named = legend(...data.roc.map((c, k) => [curveKind(k), `${T.short(c.name)}, area ${area(c)}`, DASHES[k % DASHES.length]]), ["base", "by chance", "2 4"]);
    T.add(root, bar, T.figure("detections and false alarms", [named, chart], () => [["scores", "false alarms", "detections"], ...data.roc.flatMap((c) => c.points.map((point) => [c.name, ...point]))]),
      el("p", { class: "note" }, `Dots: alarms at ${T.share(data.alpha)}, where a category's own threshold decides. At the left edge: none of ${data.roc[0].sizes[0]} clean requests.`));
    begin();
  };
  const rocChart = (data, axes) => {
    const [n, m] = data.roc[0].sizes, least = axes === "linear" ? 0 : 0.5 / n, det = axes === "det";
    const x = { log: { low: least, high: 1, scale: "log" }, linear: { low: 0, high: 1 }, det: { low: least, high: 0.99, scale: "probit", ticks: TICKS.filter((v) => v > least) } }[axes];
    const y = det ? { low: Math.min(0.5 / m, 0.01), high: 0.99, scale: "probit", ticks: TICKS.filter((v) => v > Math.min(0.5 / m, 0.01)), label: "missed" } : { low: 0, high: 1, label: "detected" };
    const plot = T.plot({ x: { ...x, says: T.share, label: "false alarms" }, y: { ...y, says: T.share }, label: `Detections against false alarms, ${AXES[axes]}` });
    const at = ([f, t]) => [f, det ? 1 - t : t];
    const chance = Array.from({ length: 80 }, (_, i) => (axes === "log" ? least ** (1 - i / 79) : 0.001 + 0.998 * (i / 79)));
    plot.line(chance.map((p) => at([p, p])), "base", { "stroke-dasharray": "2 4", "stroke-width": 1 });
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
    return T.figure("detections and false alarms at the level", el("div", { class: "wide" }, el("table", { class: "rates" }, el("thead", {}, el("tr", {}, names.map((name, i) => el("th", { scope: "col", class: i ? "num" : null }, name)))),
      el("tbody", {}, data.roc.map((c) => el("tr", {}, el("th", { scope: "row" }, c.name), [said(c.detected), said(c.false), area(c)].map((text) => el("td", { class: "num" }, text)))))),
      el("p", { class: "note" }, `Of ${data.roc[0].sizes[1]} steered and ${data.roc[0].sizes[0]} clean requests, with 95 % intervals (Clopper and Pearson).`)),
      () => [[...names, "detected low", "detected high", "false low", "false high"], ...data.roc.map((c) => [c.name, c.detected[0], c.false[0], c.area, ...c.detected.slice(1), ...c.false.slice(1)])]);
  };

  /* calibration */
  const calibration = (root, data) => {
    const { promised, observed, within, traffic } = data, least = promised[0], floor = Math.min(least, 0.5 / Math.max(data.n || 1, data.requests || 1));
    const plot = T.plot({ x: { low: least, high: 1, scale: "log", says: T.share, label: "promised at most" }, y: { low: floor, high: 1, scale: "log", says: T.share, label: "observed" }, label: "Promised and observed false alarms" });
    const line = (values) => values.map((v, i) => [promised[i], v]);
    if (within) plot.band(line(within[0]), line(within[1]), "shade-base");
    plot.line([[least, least], [1, 1]], "base", { "stroke-dasharray": "2 4", "stroke-width": 1 });
    if (traffic) plot.line(line(traffic), "less", { "stroke-dasharray": "7 3" });
    if (observed) plot.line(line(observed), "more");
    promised.forEach((p, i) => {
      const said = [`promised ${T.share(p)}`, observed && `observed ${T.share(observed[i])} of clean requests (95 % of tests: ${T.share(within[0][i])} to ${T.share(within[1][i])})`, traffic && `flagged ${T.share(traffic[i])} of the log`].filter(Boolean).join("; ");
      T.tip(plot.dot([p, (observed || traffic)[i]], observed ? "fill-more" : "fill-less", 2.5), said);
    });
    const outside = observed ? observed.filter((v, i) => v > within[1][i]).length : 0;
    const named = legend(observed && ["more", `${data.n} clean requests`], within && ["band", "95 % of such tests"], traffic && ["less", `traffic of the log (${data.requests})`, "7 3"], ["base", "as promised", "2 4"]);
    T.add(root, T.figure("promised and observed false alarms", [named, plot.node], () => [["promised", "observed", "95 % from", "to", "log"], ...promised.map((p, i) => [p, observed && observed[i], within && within[0][i], within && within[1][i], traffic && traffic[i]])]),
      outside > 0 && el("p", { class: "note warn" }, `At ${outside} of ${promised.length} levels more clean requests are flagged than 95 % of such tests would: they may not be like those of calibration.`),
      observed && !outside && el("p", { class: "note" }, "Within what was promised."));
  };

  /* alerts over time */
  const said = (at, unit) => (unit === "hour" ? T.when(at).slice(5, 16) : T.when(at).slice(0, 10));
  const overTime = (root, data) => {
    const chart = el("div"), names = data.time.map((bins) => bins.unit), kinds = data.time[0].kinds.map(([kind]) => kind), asked = T.at.get("by");
    const preferred = (data.time.find((bins) => (bins.requests || bins.kinds[0]?.[1] || []).length <= 96) || data.time[data.time.length - 1]).unit;
    let shown = data.time[0];
    const [bar, begin] = choice(names, (name) => "by " + name, "Bins", names.includes(asked) ? asked : preferred, (name) => {
      if (name !== preferred || asked) T.at.set({ by: name });
      shown = data.time.find((bins) => bins.unit === name);
      T.put(chart, timeChart(shown, data.level));
    });
    const named = legend(...kinds.map((kind) => [KINDS[kind], kind]), data.time[0].requests && ["one", `${T.share(data.level)} of the requests: false alarms, if all were clean`, "4 3"]);
    T.add(root, names.length > 1 && bar, T.figure("alerts over time", [named, chart], () => [["from (UTC)", ...kinds, "requests"], ...counts(shown).map((_, i) => [T.when(shown.start + i * shown.width), ...shown.kinds.map(([, n]) => n[i]), shown.requests && shown.requests[i]])]));
    begin();
  };
  const counts = (bins) => bins.requests || (bins.kinds[0] ? bins.kinds[0][1] : []);
  const timeChart = (bins, level) => {
    const n = counts(bins).length, total = Array.from({ length: n }, (_, i) => bins.kinds.reduce((sum, [, counted]) => sum + counted[i], 0));
    const expected = bins.requests && bins.requests.map((asked) => asked * level), [, high] = T.span(total.concat(expected || []), 0);
    const every = Math.max(1, Math.ceil(n / 4)), ticks = Array.from({ length: n }, (_, i) => i).filter((i) => i % every === 0);
    const plot = T.plot({ x: { low: -0.5, high: n - 0.5, ticks, says: (i) => said(bins.start + i * bins.width, bins.unit) }, y: { low: 0, high: high * 1.05, label: "alerts" }, label: `Alerts by ${bins.unit}` });
    const wide = Math.max(1, Math.min(48, plot.x(1) - plot.x(0) - 1.5));
    total.forEach((_, i) => {
      let from = 0;
      for (const [kind, counted] of bins.kinds) {
        if (!counted[i]) continue;
        const top = plot.y(from + counted[i]);
        T.add(plot.node, T.svg("rect", { class: "fill-" + KINDS[kind], x: plot.x(i) - wide / 2, width: wide, y: top, height: plot.y(from) - top }));
        from += counted[i];
      }
    });
    if (expected) plot.line(expected.flatMap((v, i) => [[i - 0.5, v], [i + 0.5, v]]), "one", { "stroke-dasharray": "4 3" });
    total.forEach((count, i) => {
      const told = [`${said(bins.start + i * bins.width, bins.unit)}: ${count} alerts`, ...bins.kinds.filter(([, c]) => c[i]).map(([kind, c]) => `${kind} ${c[i]}`), bins.requests && `${bins.requests[i]} requests`].filter(Boolean).join(", ");
      T.add(plot.node, T.tip(T.svg("rect", { class: "hover", x: plot.x(i) - wide / 2, width: wide, y: plot.box.top, height: plot.box.base - plot.box.top }), told));
    });
    return plot.node;
  };
})();
