/* How likely the prompt's own tokens are. */
(() => {
  const T = TlSteer, el = T.el;

  T.draw.likelihood = (root, data) => {
    const tokens = data.tokens.slice(1), before = data.unsteered.log_prob, after = data.steered.log_prob;
    if (!tokens.length) { T.add(root, el("p", { class: "note" }, "A prompt of one token predicts none of its own.")); return; }
    const change = after.map((x, i) => T.value(x) - T.value(before[i])), top = T.most(change) || 1;
    const mean = (values) => T.num(values.reduce((a, b) => a + T.value(b), 0) / values.length);
    const says = (i) => `${T.num(before[i])} unsteered, ${T.num(after[i])} steered: ${T.num(change[i], true)} nats`;
    const panel = el("div", { class: "card", "aria-live": "polite" }), asked = T.at.number("t");
    const first = asked !== null && asked > data.left_out && asked - data.left_out <= tokens.length ? asked - data.left_out - 1
      : change.reduce((best, x, i) => (Math.abs(x) > Math.abs(change[best]) ? i : best), 0);
    const show = (i) => {
      T.put(panel, el("p", {}, T.word(tokens[i]), ` (token ${i + 1 + data.left_out}): `, el("b", {}, says(i))),
        el("div", { class: "split" }, list("Likeliest there, unsteered", data.unsteered, i), list("Likeliest there, steered", data.steered, i)));
    };
    T.add(root, el("p", { class: "note" },
      `How likely each token was behind those in front of it. Colour: log-probability, steered less unsteered. Mean: ${mean(before)} unsteered, ${mean(after)} steered. `,
      data.left_out > 0 && `The first ${data.left_out} tokens are left out. `, "Pick a token to see which were likely in its place; → is the prompt's own."),
    T.figure("Likelihood of the prompt's tokens", el("div", {},
      T.tokens(tokens, { share: (i) => change[i] / top, says, picked: first, pick: (i) => { T.at.set({ t: i + 1 + data.left_out }); show(i); } }),
      T.scale(T.num(-top), `${T.num(top, true)} nats`, true, T.UNDER_TEXT)),
    () => [["token", "unsteered", "steered", "difference"], ...tokens.map((text, i) => [text, before[i], after[i], change[i]])]), panel);
    show(first);
  };

  const list = (title, run, i) => el("div", {}, el("h3", {}, title), el("table", { class: "plain" }, el("tbody", {},
    run.words[i].map((word, k) => el("tr", {}, el("td", { class: "num" }, k === run.rank[i] ? "→" : ""), el("td", {}, T.word(word)),
      el("td", { class: "num" }, T.percent(Math.exp(T.value(run.log_probs[i][k])))))),
    run.rank[i] >= run.words[i].length && el("tr", {}, el("td", { class: "num" }, "→"), el("td", {}, `the prompt's own, number ${run.rank[i] + 1}`),
      el("td", { class: "num" }, T.percent(Math.exp(T.value(run.log_prob[i]))))))));
})();
