/* The head explorer: every head in a grid and in a list, and what the one that is picked looks at. */
(() => {
  const T = TlSteer, el = T.el;

  const explained = (data, places) => {
    const whole = data.kept.length, n = data.tokens.length;
    const others = data.last ? "the others as what the last token looks at" : "of the others nothing was kept";
    return ["The colour of a head is the share of its attention that moved (total variation, mean over destination tokens).",
      data.attribution
        ? " A corner mark is its part in moving the logits behind the prompt, from a tenth of the largest on:"
          + " a deep cell with a mark moved and mattered."
        : " What heads write was not attributed to logits.",
      n < data.total && ` Of ${data.total} tokens ${n} are shown, the last and those whose attention moves most;`,
      n < data.total && " attention to others is left out.",
      whole === places ? " Every head opens in full." : ` The ${whole} heads that change most open in full, ${others}.`];
  };

  const inWords = (data, toward) => (h) => {
    const moved = Number.isNaN(h.change) ? "no attention, or no number" : `${T.num(h.change)} of its attention moved`;
    const said = T.between(h.low, h.high), random = said && ", " + said;
    const mattered = toward && !Number.isNaN(h.by) ? `; ${T.num(h.by, true)} logits toward ${toward.tokens}` : "";
    return `head ${h.name}: ${moved}${random}${mattered}`;
  };
  /* What is known of every head, in one place for the grid, the list and the file of numbers. */
  const known = (data) => {
    const by = data.attribution, whole = new Set(data.kept.map((k) => k.head.join(".")));
    const tokens = by && [by.gained, by.lost].map((text) => T.quoted(T.short(text))).join(" over ");
    const toward = by && { tokens, up: `adds to ${tokens}`, down: "takes from it" };
    const one = (layer, head) => {
      const name = `${layer}.${head}`, change = T.value(data.change[layer][head]);
      const [low, high] = data.band ? data.band.map((end) => T.value(end[layer][head])) : [NaN, NaN];
      const mattered = by ? T.value(by.heads[layer][head]) : NaN, within = change <= high;
      return { layer, head, name, change, by: mattered, low, high, within, whole: whole.has(name) };
    };
    const all = data.change.flatMap((row, layer) => row.map((_, head) => one(layer, head)));
    return { all, toward, says: inWords(data, toward), at: (layer, head) => all[layer * data.change[0].length + head] };
  };
  const csv = (heads) => {
    const names = ["layer", "head", "change", ...(heads.toward ? ["by"] : [])];
    return [names.map((name) => (name === "by" ? "attribution" : name)), ...heads.all.map((h) => names.map((name) => h[name]))];
  };

  const absent = (data, h) => {
    if (Number.isNaN(h.change)) return `Layer ${h.layer} shows no attention, or steering made it overflow.`;
    return `What head ${h.name} looks at is not in this page, which has the ${data.kept.length} heads that change most. `
      + 'An inspection made anew has the last token\'s row of every head, and with heads="all" the whole of each.';
  };

  const headGrid = (data, heads, more) => {
    const across = (rows) => rows[0].map((_, head) => rows.map((layer) => layer[head]));
    const { attribution, band, control } = data, says = band && `no further than random (${T.bandOf(control)})`;
    return T.grid(across(data.change), {
      label: "Heads by the change of their attention: heads down, layers across", width: 860, most: 28, least: 10,
      columns: { title: "layer →" }, rows: { title: "head ↓" }, says: (layer, head) => heads.says(heads.at(layer, head)),
      marks: attribution && { values: across(attribution.heads), ...heads.toward },
      band: band && { low: across(band[1].map((row) => row.map(() => 0))), high: across(band[1]), says }, ...more,
    });
  };

  const runSwitch = (current, act) => {
    const mark = (run) => buttons.forEach((b) => b.setAttribute("aria-pressed", String(b.textContent === run)));
    const buttons = T.RUNS.map((run) => el("button", { type: "button", onclick: () => { mark(run); act(run); } }, run));
    mark(current);
    return el("div", { class: "row heads-switch", role: "group", "aria-label": "Which attention is drawn" }, buttons);
  };

  /* What the address asks for, as far as it is there. */
  const asked = (data) => {
    const head = /^(\d+)\.(\d+)$/.exec(T.at.get("h") || "");
    const there = head && data.change[head[1]] && head[2] < data.change[head[1]].length;
    const first = data.kept.length ? data.kept[0].head : [0, 0], run = T.at.get("w");
    return {
      head: there ? [Number(head[1]), Number(head[2])] : first, run: T.RUNS.includes(run) ? run : T.RUNS[2],
      token: data.places.indexOf(T.at.number("t")),
    };
  };

  /* The head that is picked: { node, open(head) }. */
  const panel = (data, patterns, { token, state, leave }) => {
    const title = el("h3", { class: "heads-title" }), told = el("p", { class: "note" }), place = el("div", { class: "heads-panel" });
    let now = null, drawn = null;
    const looking = T.looking(data, {
      kept: token, pick: (t) => T.at.set({ t: t < 0 ? null : data.places[t] }), leave,
      over: (t) => { if (drawn) drawn.frame(t, patterns(now.layer, now.head).whole ? t : null); },
    });
    const draw = () => {
      const pattern = patterns(now.layer, now.head), there = pattern && !T.isEmpty(pattern), { run } = state;
      drawn = null;
      title.textContent = `Head ${now.name}`;
      told.textContent = !there ? absent(data, now) : pattern.whole ? "" : "Of this head there is what the last token looks at.";
      switcher.hidden = place.hidden = !there;
      if (!there) return;
      drawn = T.patternGrid(pattern, data, run, { name: now.name, pick: looking.keep, over: looking.tint });
      T.put(place, T.figure(`head ${now.name} ${run}`, drawn.node, () => T.patternRows(pattern, data)), looking.node);
      looking.show(pattern, run);
    };
    const switcher = runSwitch(state.run, (run) => {
      state.run = run;
      T.at.set({ w: run === T.RUNS[2] ? null : run });
      draw();
    });
    const node = el("section", { "aria-label": "The head that is picked" }, title, told, switcher, place);
    node.addEventListener("keydown", (event) => { if (event.key === "Escape") { event.stopPropagation(); leave(); } });
    return { node, open: (head) => { now = head; draw(); } };
  };

  T.draw.attention_change = (root, data) => {
    const heads = known(data), start = asked(data), state = { run: start.run }, patterns = T.patterns(data);
    if (heads.all.every((h) => Number.isNaN(h.change))) {
      T.add(root, el("p", { class: "note" }, "This model shows no attention."));
      return;
    }
    const peek = (layer, head) => {
      const pattern = patterns(layer, head), h = heads.at(layer, head), seen = pattern && !T.isEmpty(pattern);
      return el("div", {}, el("p", {}, heads.says(h)), seen && T.thumbnail(pattern, state.run),
        el("p", { class: "note" }, !seen ? "nothing kept" : pattern.whole ? state.run : `${state.run}, from the last token`));
    };
    const choose = (layer, head) => {
      list.choose(`${layer}.${head}`);
      grid.choose(layer, head);
      opened.open(heads.at(layer, head));
    };
    const pick = (layer, head) => { T.at.set({ h: `${layer}.${head}` }); choose(layer, head); };
    const grid = headGrid(data, heads, { peek, pick, picked: start.head }), list = T.headList(heads, pick);
    const opened = panel(data, patterns, { token: start.token, state, leave: () => grid.focus() });
    T.add(root, el("p", { class: "note" }, explained(data, heads.all.length)),
      el("div", { class: "heads-split" }, T.figure("heads", grid.node, () => csv(heads)), list.node), opened.node);
    choose(...start.head);
  };
})();
