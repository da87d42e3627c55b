/* Alerts of a monitor: a list, and of the one that is picked its scores over tokens. */
(() => {
  const T = TlSteer, el = T.el;
  const KINDS = { "known perturbation": "known", "unknown anomaly": "unknown", "could not be scored": "not scored" };
  const two = (n) => String(n).padStart(2, "0");
  /* seconds since 1970 as UTC, whoever reads it wherever */
  T.when = (at) => {
    const date = new Date(T.value(at) * 1000);
    if (Number.isNaN(date.getTime())) return "";
    return `${date.getUTCFullYear()}-${two(date.getUTCMonth() + 1)}-${two(date.getUTCDate())} ${two(date.getUTCHours())}:${two(date.getUTCMinutes())}:${two(date.getUTCSeconds())}`;
  };

  const COLUMNS = [
    {
      key: "at",
      name: "time (UTC)",
      width: "21%",
      num: true,
      said: (a) => T.when(a.at).slice(0, 16),
      value: (a) => T.value(a.at),
    },
    { key: "kind", name: "kind", width: "13%", said: (a) => KINDS[a.kind] || a.kind, value: (a) => a.kind },
    {
      key: "vector",
      name: "vector",
      width: "18%",
      said: (a) => [a.vector && "#" + a.vector, a.label].filter(Boolean).join(" "),
      value: (a) => (/^\d+$/.test(a.vector) ? Number(a.vector) : null),
      id: (a) => a.vector,
    },
    { key: "p_value", name: "p", width: "9%", num: true, said: (a) => T.num(a.p_value), value: (a) => T.value(a.p_value) },
    {
      key: "statistic",
      name: "score",
      width: "9%",
      num: true,
      minor: true,
      said: (a) => T.num(a.statistic),
      value: (a) => T.value(a.statistic),
    },
    { key: "request", name: "request", width: "12%", minor: true, said: (a) => a.request, value: (a) => a.request },
    {
      key: "tokens",
      name: "tokens",
      minor: true,
      said: (a) =>
        a.fired
          .slice(0, 8)
          .map(([, text]) => T.token(text))
          .join(" · "),
      value: (a) => a.fired.length,
    },
  ];

  T.draw.alerts = (root, data) => {
    if (data.tokens) {
      tokens(root, data.tokens);
      left_out(root, data.left_out, "tokens");
      return;
    }
    const card = el("section", { class: "alert", "aria-live": "polite" });
    const list = T.windowed(data.alerts, COLUMNS, {
      label: "alerts",
      height: 540,
      pick: (i) => {
        T.at.set({ a: i });
        T.put(card);
        detail(card, data.alerts[i]);
      },
    });
    left_out(root, data.left_out, "older alerts");
    T.add(root, el("div", { class: "alerts" }, T.figure("alerts", list.node, list.rows), card));
    const asked = T.at.number("a"),
      first = data.alerts[asked] ? asked : (list.order()[0] ?? data.alerts.length - 1);
    list.choose(first);
  };
  const left_out = (root, n, what) => T.add(root, n > 0 && el("p", { class: "note" }, `${n} ${what} are left out.`));

  const vector = (number, label) => {
    const said = [`vector ${number}`, label && T.quoted(label)].filter(Boolean).join(" ");
    return T.has("overview") && /^\d+$/.test(number) ? el("a", { href: "#v" + number }, said) : said;
  };
  const detail = (root, alert) => {
    const facts = [
      ["time (UTC)", T.when(alert.at)],
      ["p", T.num(alert.p_value)],
      ["score", T.num(alert.statistic)],
      ["threshold", T.num(alert.threshold)],
      ["of the vector, p", T.num(alert.vector_p)],
      ["explained by the bank", T.percent(alert.explained)],
    ].filter(([, said]) => said && said !== "–");
    T.add(
      root,
      el("h3", {}, alert.kind),
      alert.vector && el("p", {}, vector(alert.vector, alert.label)),
      el(
        "div",
        { class: "facts" },
        facts.map(([name, said]) => el("div", {}, el("span", {}, name), el("b", {}, said))),
      ),
    );
    tokens(root, expanded(alert));
    const others = alert.others.filter(([number]) => number !== alert.vector);
    T.add(
      root,
      others.length > 0 &&
        el(
          "p",
          { class: "note" },
          "Or: ",
          others.map(([number, label, score], i) => [i ? ", " : "", vector(number, label), ` (${T.num(score)})`]),
        ),
      alert.request && el("p", { class: "note" }, "Request ", el("span", { class: "said" }, alert.request)),
    );
  };

  /* An alert has texts of what fired alone; the others are only counted. */
  const expanded = (alert) => {
    const texts = new Map(alert.fired),
      scores = alert.trace;
    return {
      tokens: scores.map((_, i) => texts.get(i) || ""),
      places: scores.map((_, i) => (i ? `+${i}` : "prompt")),
      scores,
      thresholds: scores.map(() => alert.threshold),
      fired: scores.map((_, i) => texts.has(i)),
      vectors: scores.map((_, i) => (texts.has(i) ? alert.vector : "")),
    };
  };

  const tokens = (root, data) => {
    const n = data.scores.length,
      places = data.places || data.tokens.map((_, i) => String(i));
    if (!n) {
      T.add(root, el("p", { class: "note" }, "No token was scored: this is about the traffic as a whole."));
      return;
    }
    const lost = data.scores.filter((v) => Number.isNaN(T.value(v))).length;
    const says = (i) =>
      `${[places[i], data.tokens[i] && T.quoted(data.tokens[i])].filter(Boolean).join(" ")}: score ${T.num(data.scores[i])}${data.fired[i] ? ", fired" : ""}${data.vectors[i] ? ", nearest vector " + data.vectors[i] : ""}`;
    const rows = () => [
      ["token", "text", "score", "threshold", "fired"],
      ...data.scores.map((v, i) => [places[i], data.tokens[i], T.value(v), T.value(data.thresholds[i]), data.fired[i] ? 1 : 0]),
    ];
    T.add(
      root,
      el(
        "p",
        { class: "note" },
        `${data.fired.filter(Boolean).length} of ${n} tokens fired.`,
        lost > 0 && ` ${lost} could not be scored (gaps in the line).`,
      ),
      T.figure(
        "scores over tokens",
        [T.legend(["base", "score"], ["less", "threshold, and what fired"]), chart(data, places, says)],
        rows,
      ),
    );
    const top = T.most(data.scores) || 1;
    if (data.tokens.some((t) => t !== ""))
      T.add(
        root,
        T.tokens(
          data.tokens.map((t, i) => t || places[i] || "·"),
          { share: (i) => (data.fired[i] ? -0.9 : (T.value(data.scores[i]) / top) * 0.6), says },
        ),
      );
  };

  const chart = (data, places, says) => {
    const n = data.scores.length,
      thresholds = data.thresholds.map(T.value);
    const [low, high] = T.span(data.scores.concat(data.thresholds), 0);
    const every = Math.max(1, Math.ceil(n / 10)),
      ticks = places.map((_, i) => i).filter((i) => i % every === 0);
    const plot = T.plot({
      x: { low: -0.5, high: n - 0.5, ticks, says: (i) => places[i], label: data.places ? "generated tokens" : "tokens" },
      y: { low, high: high + 0.05 * (high - low), label: "score" },
      label: "Scores over tokens",
      height: 230,
    });
    plot.line(
      data.scores.map((v, i) => [i, v]),
      "base",
    );
    if (thresholds.every((v) => v === thresholds[0])) plot.across(thresholds[0], "less dash");
    else
      plot.line(
        thresholds.map((v, i) => [i, v]),
        "less dash",
      );
    data.scores.forEach((v, i) => {
      if (!Number.isNaN(T.value(v)))
        T.tip(plot.dot([i, v], data.fired[i] ? "fill-less" : "fill-base", data.fired[i] ? 5 : 3), says(i));
    });
    return plot.node;
  };
})();
