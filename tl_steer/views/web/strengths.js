/* One vector at several strengths: a slider that moves text, KL and probabilities together. */
(() => {
  const T = TlSteer, el = T.el;
  T.vectorTabs.push({ kind: "strengths", name: "strength", title: "Strength" });

  const plain = (scale) => String(Number(Math.abs(scale).toPrecision(3)));
  const signed = (scale) => (scale < 0 ? "−" : scale > 0 ? "+" : "") + plain(scale);
  const times = (scale) => (scale === 0 ? "unsteered" : signed(scale) + "\u00a0×");
  const spoken = (scale) =>
    scale === 0 ? "unsteered" : scale > 0 ? `${plain(scale)} times the vector` : `${plain(scale)} times its opposite`;
  const state = (step) => {
    if (step.scale === 0) return "unsteered";
    return !step.changed ? "same text" : step.gibberish ? "gibberish" : "other text";
  };
  const last = (values) => values[values.length - 1];

  /* Stops stand evenly apart, whatever their strengths; between two of them a strength is in proportion. */
  const stop = (i, n) => ((i + 0.5) / n) * 100;
  const place = (scales, strength) => {
    const n = scales.length, above = scales.findIndex((s) => s >= strength);
    if (above === 0 || scales[above] === strength) return stop(above, n);
    if (above < 0) return 100;
    const part = (strength - scales[above - 1]) / (scales[above] - scales[above - 1]);
    return stop(above - 1 + part, n);
  };

  /* from the unsteered model outwards: same text, other text, gibberish */
  const zones = (scales, ends, sign) => {
    const [leaves, babbles] = ends.map(T.value), outmost = sign > 0 ? last(scales) : -scales[0];
    if (!(outmost > 0)) return [];
    const at = (strength) => (strength > outmost ? (sign > 0 ? 100 : 0) : place(scales, sign * strength));
    const gone = Math.max(leaves, Number.isFinite(leaves) ? babbles : Infinity);
    return [["same", at(0), at(leaves)], ["other", at(leaves), at(gone)], ["gibberish", at(gone), sign > 0 ? 100 : 0]];
  };
  const zone = ([kind, a, b]) =>
    el("i", { class: "zone " + kind, style: { left: Math.min(a, b) + "%", width: Math.abs(b - a) + "%" } });

  /* KL behind the prompt over the strengths, on the band of the random vectors */
  const curve = (data) => {
    const n = data.steps.length, kl = data.steps.map((s) => last(s.kl));
    const [low, high] = [0, 1].map((end) => data.steps.map((s) => (s.band ? last(s.band[end]) : 0)));
    const top = T.most([...kl, ...high]) || 1, x = (i) => stop(i, n).toFixed(2);
    const y = (v) => (58 - (Math.min(Math.max(T.value(v), 0), top) / top) * 54).toFixed(2);
    const known = (v) => !Number.isNaN(T.value(v));
    const step = (v, i, all) => (known(v) ? `${i && known(all[i - 1]) ? "L" : "M"}${x(i)} ${y(v)}` : "");
    const line = (values) => values.map(step).join("");
    const back = low.map((v, i) => `L${x(i)} ${y(v)}`).reverse().join("");
    const root = T.svg("svg", { viewBox: "0 0 100 60", preserveAspectRatio: "none", role: "img",
      "aria-label": `KL behind the prompt at every strength, at most ${T.num(top)} nats` });
    if (data.random && [...high, ...low].every(known))
      T.add(root, T.svg("path", { class: "shade-base", d: line(high) + back + "Z" }));
    T.add(root, T.svg("path", { class: "more", "vector-effect": "non-scaling-stroke", d: line(kl) }));
    const dot = (v, i) => {
      const style = { left: x(i) + "%", top: y(v) + "px" }, end = Number.isFinite(T.value(v)) ? "" : " endless";
      return known(v) && T.tip(el("i", { class: "dot" + end, style }), `${times(data.steps[i].scale)}: ${T.num(v)} nats`);
    };
    const name = `KL behind the prompt, up to ${T.num(top)} nats`;
    return el("div", { class: "curve" }, root, el("span", { class: "note" }, name), kl.map(dot));
  };

  const track = (data, scales) => {
    const below = zones(scales, data.ends.backwards, -1), above = zones(scales, data.ends.forwards, 1);
    return el("div", { class: "track" }, [...below, ...above].map(zone));
  };

  const sentence = (name, [leaves, babbles], lowest) => {
    const at = (x) => `${T.num(x)}\u00a0×`, from = T.value(leaves), spoilt = Math.max(from, T.value(babbles));
    if (!Number.isFinite(from)) return `${name} the text never changes`;
    const changes = from <= lowest ? `has changed at ${plain(lowest)}\u00a0×, the least measured` : `changes at about ${at(from)}`;
    const then = Number.isFinite(spoilt) ? `is gibberish from about ${at(spoilt)}` : "never turns into gibberish";
    return `${name} the text ${changes}, and ${then}`;
  };
  const least = (scales) => Math.min(...scales.map(Math.abs));
  const ends = (data, scales) => {
    const [below, above] = [scales.filter((s) => s < 0), scales.filter((s) => s > 0)];
    return [above.length && sentence("forwards", data.ends.forwards, least(above)),
      below.length && sentence("backwards", data.ends.backwards, least(below))].filter(Boolean).join("; ");
  };

  const chances = (step) => el("div", { class: "chances" }, step.top.map(([word, p, before]) => {
    const bar = el("span", { class: "bar", style: { width: 100 * T.value(p) + "%" } });
    const tick = el("span", { class: "was", style: { left: 100 * T.value(before) + "%" } });
    const track = T.tip(el("span", { class: "track" }, bar, tick), `${T.percent(p)}; unsteered ${T.percent(before)}`);
    return [T.word(word), track, el("span", { class: "num" }, T.percent(p))];
  }));

  const strip = (data, step, top) => el("div", {},
    T.tokens(data.tokens, {
      share: (i) => T.value(step.kl[i]) / top,
      says: (i) => `${T.num(step.kl[i])} nats${step.band ? `, ${T.between(step.band[0][i], step.band[1][i])}` : ""}`,
    }), T.scale("0", `${T.num(top)} nats at any strength`, false, T.UNDER_TEXT));

  const facts = (data, step) => el("p", { class: "told", role: "status" },
    el("b", {}, times(step.scale)), " ", el("span", { class: "state " + state(step).split(" ").pop() }, state(step)), " ",
    step.scale !== 0 && ["KL behind the prompt ", el("b", { class: "num" }, T.num(last(step.kl))), " nats",
      step.band && `, ${T.between(last(step.band[0]), last(step.band[1]))}`,
      `; surprise ${T.num(step.surprise)} nats a token `,
      `(${T.num(data.fluent)} for the model's own, ${T.num(data.salad)} for word salad)`,
      `; ${T.percent(step.repetition)} of token pairs repeated`]);

  const said = (before, text) => (text.trim() ? T.said(before, text)
    : el("span", { class: "note" }, text ? `Nothing but white space, ${text.length} characters.` : "Nothing: it ends at once."));
  const texts = (data, step) => el("div", {},
    el("div", { class: "compare" },
      el("div", { class: "card steered" }, el("h3", {}, `Steered, ${times(step.scale)}`), said(data.unsteered, step.text)),
      el("div", { class: "card" }, el("h3", {}, "Unsteered"), said(data.unsteered, data.unsteered))),
    step.random.length > 0 && el("h3", {}, `Random vectors, ${times(step.scale)}`),
    step.random.map((text) => el("div", { class: "random" }, said(data.unsteered, text))));

  const rows = (data) => () => [["strength", "KL behind the prompt", "surprise", "repeated", "text"],
    ...data.steps.map((s) => [s.scale, T.value(last(s.kl)), T.value(s.surprise), T.value(s.repetition), s.text])];

  const slider = (data, scales, show) => {
    const n = scales.length, asked = T.at.number("d");
    const near = (d) => scales.reduce((best, s, i) => (Math.abs(s - d) < Math.abs(scales[best] - d) ? i : best), 0);
    const start = near(asked === null ? 1 : asked);
    const input = el("input", { type: "range", min: 0, max: n - 1, step: 1, value: start, "aria-label": "Strength",
      style: { marginLeft: `calc(${50 / n}% - 9px)`, width: `calc(${100 - 100 / n}% + 18px)` } });
    const move = (kept) => {
      const step = data.steps[Number(input.value)];
      input.setAttribute("aria-valuetext", `${spoken(step.scale)}, ${state(step)}`);
      if (kept) T.at.set({ d: step.scale });
      show(step);
    };
    input.addEventListener("input", () => move(true));
    input.addEventListener("keydown", (event) => event.stopPropagation());
    return { input, move, go: (i) => { input.value = i; move(true); } };
  };

  T.draw.strengths = (root, data) => {
    const scales = data.steps.map((s) => s.scale), n = scales.length;
    const top = T.most(data.steps.flatMap((s) => s.kl)) || 1;
    const told = el("div"), words = el("div"), next = el("div"), tokens = el("div");
    const control = slider(data, scales, (step) => {
      T.put(told, facts(data, step));
      T.put(words, texts(data, step));
      T.put(next, chances(step));
      T.put(tokens, strip(data, step, top));
    });
    const now = () => data.steps[Number(control.input.value)];
    const mark = (s, i) => el("button", {
      type: "button", tabindex: -1, style: { left: stop(i, n) + "%" }, onclick: () => control.go(i),
    }, signed(s));
    const marks = el("div", { class: "stops" }, scales.map(mark));
    const board = el("div", { class: "board" }, curve(data), track(data, scales), control.input, marks);
    T.add(root,
      el("p", { class: "note" }, "How many times the vector is added; below 0 its opposite. As it grows: ", ends(data, scales), ".",
        data.random ? ` Grey: ${data.random} random vectors.` : ""),
      T.figure("Strength", board, rows(data)),
      T.legend(["same", "same text"], ["other", "other text that holds together"], ["gibberish", "gibberish"]),
      told, words,
      el("div", { class: "split" },
        el("div", {}, el("h3", {}, "Next token behind the prompt; tick: unsteered"), T.figure("Likeliest next tokens", next,
          () => [["token", "probability", "unsteered"], ...now().top])),
        el("div", {}, el("h3", {}, "Where the prediction moves"), T.figure("KL of every token", tokens,
          () => [["token", "nats"], ...data.tokens.map((t, i) => [t, T.value(now().kl[i])])]))));
    control.move(false);
  };
})();
