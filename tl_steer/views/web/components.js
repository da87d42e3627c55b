/* What CircuitsVis's components are given: numbers that the page has for views of ours. */
(() => {
  const T = TlSteer, el = T.el;
  const MORE = "rgb(11,114,133)", LESS = "rgb(201,84,22)", BLUE = "rgb(0,0,255)";
  const round = (x) => Number(x.toFixed(3));
  const KINDS = [["difference", "difference"], ["steered", "steered"], ["unsteered", "unsteered"]];
  const nats = (x, signed) => T.num(x, signed) + " nats";

  /* Its colours are mixed with white in Lab. The scale has the same ones, in steps, as a browser mixes them. */
  const STEPS = Array.from({ length: 9 }, (_, i) => i / 8);
  const from = (colour) => {
    const pen = el("canvas", { width: 1, height: 1 }).getContext("2d", { willReadFrequently: true });
    return STEPS.map((share) => {
      pen.fillStyle = `color-mix(in lab, ${colour} ${100 * share}%, white)`;
      pen.fillRect(0, 0, 1, 1);
      return `rgb(${pen.getImageData(0, 0, 1, 1).data.slice(0, 3).join(", ")})`;
    });
  };
  const white = (colour) => (CSS.supports("color", "color-mix(in lab, red, white)") ? from(colour) : ["white", colour]);
  const both = (less, more) => [...white(less).reverse(), ...white(more).slice(1)];
  const scale = (low, high, colours) => el("div", { class: "scale paper" }, low,
    el("i", { style: { background: `linear-gradient(90deg, ${colours.join(", ")})` } }), high);
  /* It draws no missing number and takes infinity for white: what is not finite is said beside the token. */
  const marked = (text, value) => {
    const x = T.value(value);
    return T.inert(text) + (Number.isFinite(x) ? "" : ` (${T.num(x)})`);
  };
  const finite = (value, top) => {
    const x = T.value(value);
    return Number.isNaN(x) ? 0 : Math.max(-top, Math.min(top, x));
  };

  /* attention: heads with a name and a square of numbers each, and their largest */
  const heads = (data, which) => {
    const at = T.patterns(data);
    return data.kept.map(({ head: [layer, head] }) => {
      const rows = at(layer, head)[which], flat = rows.flat();
      return {
        name: `${layer}.${head}`, rows: rows.map((row) => row.map((x) => (Number.isFinite(x) ? round(x) : 0))),
        ahead: rows.some((row, y) => row.some((x, i) => i > y && x !== undefined)), lost: flat.some(Number.isNaN),
      };
    });
  };
  const largest = (list) => T.most(list.flatMap((head) => head.rows.flat())) || 0.001;
  const left = (data, list) => (data.tokens.length < data.total ? ` ${data.tokens.length} of ${data.total} tokens are shown, those whose attention moves most.` : "")
    + (list.some((head) => head.lost) ? " Rows that are not finite are left white." : "");
  const cells = (list, tokens) => () => [["head", "destination", "source", "value"],
    ...list.flatMap((head) => head.rows.flatMap((row, y) => row.slice(0, head.ahead ? row.length : y + 1)
      .map((value, x) => [head.name, `${y} ${tokens[y]}`, `${x} ${tokens[x]}`, value])))];
  const SAID = { difference: "Steered less unsteered attention", steered: "Attention, steered", unsteered: "Attention, unsteered" };

  const attentionHeads = ({ attention_change: data }, which) => {
    const list = heads(data, which), top = which === "difference" ? largest(list) : 1;
    const ahead = list.some((head) => head.ahead);
    return {
      component: "AttentionHeads", names: list.map((head) => "head " + head.name), rows: cells(list, data.tokens), nothing: !list.length,
      note: `${SAID[which]}, from destination (down) to source (across). Hover a head to see it large, click it to lock it.${left(data, list)}`,
      legend: which === "difference" ? scale(T.num(-top), T.num(top, true), both(LESS, MORE)) : scale("0", "1", white(MORE)),
      props: {
        attention: list.map((head) => head.rows), attentionHeadNames: list.map((head) => head.name), tokens: data.tokens.map((text) => T.short(T.token(text))),
        minValue: -top, maxValue: top, negativeColor: LESS, positiveColor: MORE, maskUpperTri: !ahead,
      },
    };
  };

  /* It mixes each head's hue with white and has no colour below zero, which would look like zero. */
  const parts = (list, top) => list.flatMap((head) => [["more", 1], ["less", -1]].map(([word, sign]) => ({
    ...head, name: `${head.name} ${word}`, rows: head.rows.map((row) => row.map((x) => Math.max(0, sign * x) / top)),
  })));
  const attentionPatterns = ({ attention_change: data }, which) => {
    const whole = heads(data, which), two = which === "difference", top = two ? largest(whole) : 1;
    const list = two ? parts(whole, top) : whole;
    return {
      component: "AttentionPatterns", names: list.map((head) => "head " + head.name), rows: cells(whole, data.tokens), nothing: !list.length,
      note: `${SAID[which]}. Hover or click a token to see where it looks, or who looks at it; hover or click a head to see it alone. `
        + (two ? "“more” is what a head looks at more under steering, “less” what it looks at less." : "") + left(data, list),
      legend: scale("0", two ? `${T.num(top)} of its attention` : "1", STEPS.map((share) => `hsl(0, 80%, ${100 - 75 * share}%)`)),
      props: { attention: list.map((head) => head.rows), headLabels: list.map((head) => head.name), tokens: data.tokens.map((text) => T.inert(text)) },
    };
  };

  /* one number a token */
  const difference = (data) => data.steered.log_prob.map((x, i) => T.value(x) - T.value(data.unsteered.log_prob[i]));
  const TOKENS = {
    kl: ["KL of steered from unsteered next tokens, behind each token", ({ logit_change: data }) => [data.tokens, data.kl]],
    difference: ["Log-probability of each token, steered less unsteered", ({ likelihood: data }) => [data.tokens.slice(1), difference(data)]],
    steered: ["Log-probability of each token, steered", ({ likelihood: data }) => [data.tokens.slice(1), data.steered.log_prob]],
    unsteered: ["Log-probability of each token, unsteered", ({ likelihood: data }) => [data.tokens.slice(1), data.unsteered.log_prob]],
  };
  const coloredTokens = (panels, which) => {
    const [said, of] = TOKENS[which], [tokens, values] = of(panels), top = T.most(values) || 1;
    const legends = { kl: ["0", nats(top), white(MORE)], difference: [nats(-top), nats(top, true), both(LESS, MORE)] };
    return {
      component: "ColoredTokens", nothing: !tokens.length, note: `${said}, in nats. Hover a token for its value.`,
      legend: scale(...(legends[which] || [nats(-top), "0", white(LESS).reverse()])), rows: () => [["token", "nats"], ...tokens.map((text, i) => [text, values[i]])],
      props: {
        tokens: tokens.map((text, i) => marked(text, values[i])), values: values.map((x) => finite(x, top)),
        minValue: -top, maxValue: top, negativeColor: LESS, positiveColor: MORE,
      },
    };
  };

  const tokenLogProbs = ({ likelihood: data }, which) => {
    const run = data[which];
    return {
      component: "TokenLogProbs", nothing: data.tokens.length < 2,
      note: `Log-probability of each token, ${which}. Hover a token for its rank and the likeliest ones there.`,
      legend: scale("−5 nats and below", "0, certain", white("red")),
      rows: () => [["token", "log-probability", "rank"], ...data.tokens.slice(1).map((text, i) => [text, run.log_prob[i], run.rank[i]])],
      props: {
        prompt: data.tokens.map((text, i) => (i ? marked(text, run.log_prob[i - 1]) : T.inert(text))),
        topKTokens: run.words.map((words) => words.map(T.inert)), topKLogProbs: run.log_probs.map((row) => row.map((x) => finite(x, 1e4))),
        correctTokenRank: run.rank, correctTokenLogProb: run.log_prob.map((x) => finite(x, 1e4)),
      },
    };
  };

  /* likeliest next tokens: columns are tokens of the prompt, and samples the models */
  const likeliest = (run) => run.words.map((words, i) => words.map((word, k) => [word, round(Math.exp(T.value(run.log_probs[i][k])))]));
  const moved = (list) => list.map((row) => (row || []).map(([word, before, after]) => [word, round(Math.abs(T.value(after) - T.value(before)))]));
  const COLUMNS = 5;  // it shows at least so many, whether there are or not
  const ranks = (columns, word, depth) => {
    const all = [...columns, ...Array.from({ length: Math.max(0, COLUMNS - columns.length) }, () => [])];
    const at = (column, k) => column[k] || ["", 0];
    const rows = Array.from({ length: depth }, (_, k) => all.map((column) => at(column, k)));
    return { vals: [rows.map((row) => row.map(([, p]) => p))], idxs: [rows.map((row) => row.map(([text]) => word(text)))] };
  };
  const sample = (top, bottom) => {
    const words = [], depth = (columns) => Math.max(0, ...columns.map((column) => column.length));
    const word = (text) => { const at = words.indexOf(text); return at < 0 ? words.push(text) - 1 : at; };
    return { top: ranks(top, word, depth(top)), bottom: ranks(bottom, word, depth(bottom)), words };
  };
  const topkTokens = ({ logit_change: change, likelihood: data }, which) => {
    const gained = moved(change.gained.slice(data.left_out)), lost = moved(change.lost.slice(data.left_out));
    const all = { difference: sample(gained, lost), steered: sample(likeliest(data.steered), []), unsteered: sample(likeliest(data.unsteered), []) };
    // With a single sample it shows a single column.
    const order = [which, ...KINDS.map(([name]) => name).filter((name) => name !== which)], runs = order.map((name) => all[name]);
    const from = data.left_out ? ` Column 0 is token ${data.left_out} of the prompt.` : "";
    return {
      component: "TopkTokens", same: which, nothing: !data.tokens.length, before: T.numbered(data.tokens), legend: scale("0", "1", white(BLUE)),
      note: "Next tokens behind each token of the prompt, a column each, coloured by probability; of the difference, those that gain most (top) "
        + "and those that lose most (bottom), by how much. It has no colour for less: what is lost has no sign." + from,
      rows: () => [["sample", "place", "column", "token", "probability"], ...order.flatMap((name) => rowsOf(name, all[name]))],
      props: {
        tokens: runs.map((run) => run.words.map(T.inert)), sampleLabels: order,
        topkVals: runs.map((run) => run.top.vals), topkIdxs: runs.map((run) => run.top.idxs),
        bottomkVals: runs.map((run) => run.bottom.vals), bottomkIdxs: runs.map((run) => run.bottom.idxs),
        firstDimensionName: "Layer", firstDimensionLabels: ["output"], thirdDimensionName: "Token",
      },
    };
  };
  const rowsOf = (name, run) => [["top", run.top], ["bottom", run.bottom]].flatMap(([place, { vals, idxs }]) => vals[0].flatMap((row, k) =>
    row.map((p, column) => [name, `${place} ${k}`, column, run.words[idxs[0][k][column]], p])));

  /* the response: tokens by layers, twice */
  const textNeuronActivations = ({ residual_response: data }) => {
    // It divides by the largest value of a layer, which must not be zero; and it starts with the first.
    const layers = data.response.map((_, s) => s).filter((s) => data.response[s].some((x) => T.value(x) > 0)).reverse();
    const named = (s) => (s ? `after block ${s - 1}` : "before block 0"), number = (x) => finite(x, 1e30);
    const tokens = data.bins.map(([a, b]) => (a === b ? data.tokens[a] : `${data.tokens[a]}…${data.tokens[b]}`));
    const odd = data.response.flat().filter((x) => !Number.isFinite(T.value(x))).length;
    return {
      component: "TextNeuronActivations", nothing: !layers.length, legend: scale("0", "the largest in the layer that is chosen", white(BLUE)),
      note: "How far steering moved the residual stream at each token, in the layer that is chosen. Layers where nothing moved are left out."
        + (odd ? ` ${odd} values are not finite and drawn as nothing or as very large.` : ""),
      rows: () => [["layer", "token", "norm", "share"], ...layers.flatMap((s) => tokens.map((text, i) => [named(s), text, data.response[s][i], data.share[s][i]]))],
      props: {
        tokens: tokens.map(T.inert), activations: tokens.map((_, i) => layers.map((s) => [number(data.response[s][i]), number(data.share[s][i])])),
        firstDimensionName: "Layer", firstDimensionLabels: layers.map(named), secondDimensionName: "Value",
        secondDimensionLabels: ["norm of the change", "share of the unsteered norm"],
      },
    };
  };

  /* the tokens of a prompt with their numbers, as columns name them */
  T.numbered = (tokens) => el("div", { class: "numbered" }, tokens.map((text, i) => el("span", {}, el("sub", {}, i), T.token(text))));

  T.vectorTabs.push({ kind: "circuitsvis", name: "circuitsvis", title: "CircuitsVis" });
  T.components = {
    attention_heads: { title: "Attention heads", needs: ["attention_change"], which: KINDS, made: attentionHeads },
    attention_patterns: { title: "Attention patterns", needs: ["attention_change"], which: KINDS, made: attentionPatterns },
    colored_tokens: { title: "Coloured tokens", needs: ["logit_change", "likelihood"], which: [["kl", "KL"], ...KINDS], made: coloredTokens },
    token_log_probs: { title: "Token log-probs", needs: ["likelihood"], which: KINDS.slice(1), made: tokenLogProbs },
    topk_tokens: { title: "Top-k tokens", needs: ["logit_change", "likelihood"], which: KINDS, made: topkTokens },
    text_neuron_activations: { title: "Text neuron activations", needs: ["residual_response"], which: [], made: textNeuronActivations },
  };

  /* A view has one component and its numbers; a report has all, and takes the numbers of other panels. */
  T.draw.circuitsvis = (root, data) => {
    const names = data.component ? [data.component] : Object.keys(T.components);
    const asked = T.at.get("component"), bar = el("div", { class: "row" }), body = el("div");
    let name = names.includes(asked) ? asked : names[0], which = T.at.get("which") || data.which, shown = null, turn = 0;
    const toggle = (title, on, act) => el("button", { type: "button", "aria-pressed": String(on), onclick: act }, title);
    const group = (label, items) => items.length > 1 && el("div", { class: "row choice", role: "group", "aria-label": label }, items);
    const choose = (changes) => { T.at.set(changes); draw(); };
    const panel = async (kind) => (data.panels ? data.panels[kind] : T.panel(kind));
    const draw = () => {
      body.setAttribute("aria-busy", "true");
      const now = ++turn, done = () => now === turn && body.removeAttribute("aria-busy");
      drawn(now).catch((error) => { console.error(error); T.put(body, el("p", { class: "note" }, `This could not be drawn: ${error}`)); }).finally(done);
    };
    const drawn = async (now) => {
      const kind = T.components[name];
      if (!kind.which.some(([key]) => key === which)) which = kind.which.length ? kind.which[0][0] : "";
      T.put(bar, group("Component", names.map((key) => toggle(T.components[key].title, key === name, () => { name = key; choose({ component: key }); }))),
        group("What it shows", kind.which.map(([key, title]) => toggle(title, key === which, () => { which = key; choose({ which: key }); }))));
      const panels = Object.fromEntries(await Promise.all(kind.needs.map(async (need) => [need, await panel(need)])));
      if (now !== turn) return;
      if (kind.needs.some((need) => !panels[need])) { shown = null; T.put(body, el("p", { class: "note" }, "Its numbers are not in this report.")); return; }
      shown = put(body, shown, name, kind.made(panels, which));
    };
    T.add(root, bar, body);
    draw();
  };

  /* In the same component where it is the same: the head that was locked stays locked. */
  const put = (body, shown, name, made) => {
    const above = el("div", {}, el("p", { class: "note" }, made.note), !made.nothing && made.legend, made.before);
    const names = made.same || (made.names || []).join();
    if (shown && shown.name === name && shown.names === names) {
      shown.above.replaceWith(above);
      shown.sheet.show(made.props);
      return Object.assign(shown, { above, rows: made.rows });
    }
    T.put(body, above, made.nothing && el("p", { class: "note" }, "There is nothing to show."));
    if (made.nothing) return null;
    const place = el("div"), next = { name, names, above, rows: made.rows };
    T.add(body, T.figure(T.components[name].title, place, () => next.rows()));
    next.sheet = T.circuitsvis(place, made.component, made.props, "", made.names);
    return next;
  };
})();
