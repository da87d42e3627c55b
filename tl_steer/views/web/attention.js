/* Attention: which heads look elsewhere. The patterns are CircuitsVis's. */
(() => {
  const T = TlSteer, el = T.el;
  const full = (rows, n) => rows.map((row) => Array.from({ length: n }, (_, i) => (row[i] || 0) / 1000));

  T.draw.attention_change = (root, data) => {
    const n = data.tokens.length, kept = data.kept;
    if (!data.change.flat().some((v) => v !== null)) { T.add(root, el("p", { class: "note" }, "This model shows no attention.")); return; }
    const left = [];
    if (n < data.total) left.push(`${n} of ${data.total} tokens are shown, those whose attention moves most.`);
    const heads = data.change.length * data.change[0].length;
    if (kept.length < heads) left.push(`Patterns of the ${kept.length} heads (of ${heads}) that change most are here.`);
    T.add(root, el("p", { class: "note" }, "The number of a head is the share of its attention that moved (total variation, mean over destination tokens). ", left.join(" ")));
    const list = el("div"), patterns = el("div");
    const across = data.change[0].map((_, head) => data.change.map((layer) => layer[head]));
    const grid = T.map(across, {
      label: "Change of attention, heads down and layers across", width: 520,
      says: (layer, head, value) => `head ${layer}.${head}: ${T.num(value)} moved`,
      rings: kept.map((k) => [k.layer, k.head]),
      pick: (layer, head) => { const i = kept.findIndex((k) => k.head === head && k.layer === layer); if (i >= 0) choose(i); },
    });
    const top = T.most(data.change.flat());
    T.add(root, el("div", { class: "split" },
      el("div", {}, el("h3", {}, "Heads down, layers across"), grid, T.scale("0", T.num(top)),
        kept.length > 0 && el("p", { class: "note" }, "Outlined heads can be opened.")),
      el("div", {}, el("h3", {}, "Changed most"), list)), patterns);

    const choose = (i) => {
      T.put(list, T.bars(kept.map((k, j) => ({ name: `head ${k.layer}.${k.head}`, value: k.change, picked: i === j, at: j })), { limit: top, pick: (item) => choose(item.at) }));
      const head = kept[i], [before, after] = head.patterns.map((p) => full(p, n));
      const change = after.map((row, y) => row.map((value, x) => Number((value - before[y][x]).toFixed(3))));
      const most = Math.max(T.most(change.flat()), 0.001);
      const ahead = before.concat(after).some((row, y) => row.some((value, x) => x > y % n && value > 0));
      const panels = el("div", { class: "panels" });
      T.put(patterns, el("h3", { style: { marginTop: "18px" } }, `Head ${head.layer}.${head.head}, from destination (down) to source (across)`), panels);
      const common = { tokens: data.tokens.map(T.token), maskUpperTri: !ahead, upperTriColor: "rgb(240,243,244)", negativeColor: "rgb(201,84,22)", positiveColor: "rgb(11,114,133)" };
      const pattern = (title, attention, limit) => T.circuitsvis(panels, "AttentionPattern", { ...common, attention, minValue: -limit, maxValue: limit }, title);
      pattern(`Difference, scale ±${T.num(most)}`, change, most);
      pattern("Unsteered, scale 0 to 1", before, 1);
      pattern("Steered, scale 0 to 1", after, 1);
    };
    if (kept.length) choose(0);
  };
})();
