/* Pairs of hook points as a heat map, and the cells of the pair that is picked. */
(() => {
  const T = TlSteer, el = T.el;
  /* blocks.3.hook_resid_post is 3, and blocks.3.hook_mlp_out is 3.mlp_out */
  const short = (name) => name.replace(/^blocks\.(\d+)\.hook_/, "$1.").replace(/^(\d+)\.resid_post$/, "$1");
  const cut = (name) => {
    const text = short(name);
    return text.length > 16 ? text.slice(0, 15) + "…" : text;
  };
  const mean = (values) => (values.length ? values.reduce((a, b) => a + b, 0) / values.length : null);

  T.draw.scan = (root, data) => {
    const names = data.quantities,
      asked = T.at.get("m"),
      place = (T.at.get("c") || "").split(".").map(Number);
    const state = { by: Math.max(0, names.indexOf(asked)), chosen: data.settings.map(() => ""), picked: null };
    if (place.length === 2 && data.sources[place[1]] !== undefined && data.targets[place[0]] !== undefined) state.picked = place;
    const map = el("div"),
      card = el("section", { "aria-live": "polite" });
    const bar = el(
      "div",
      { class: "row", role: "group", "aria-label": "Quantity" },
      names.map((name, i) =>
        el(
          "button",
          {
            type: "button",
            onclick: () => {
              state.by = i;
              T.at.set({ m: name });
              show();
            },
          },
          T.short(name),
        ),
      ),
    );
    const choices = data.settings.map((setting, i) =>
      el(
        "label",
        { class: "small" },
        setting.name + " ",
        el(
          "select",
          {
            onchange: (event) => {
              state.chosen[i] = event.target.value;
              show();
            },
          },
          el("option", { value: "" }, "all, averaged"),
          setting.values.map((value, j) => el("option", { value: String(j) }, T.short(value))),
        ),
      ),
    );
    T.add(
      root,
      bar,
      choices.length > 0 && el("div", { class: "row" }, choices),
      el("div", { class: data.targets.length > 24 ? null : "map-split" }, map, card),
    );
    const show = () => {
      [...bar.children].forEach((b, i) => b.setAttribute("aria-pressed", String(i === state.by)));
      const groups = grouped(data, state),
        pick = (x, y) => {
          state.picked = [x, y];
          T.at.set({ c: `${x}.${y}` });
          details(card, data, state, groups[y][x]);
        };
      T.put(map, heat(data, state, groups, pick));
      T.put(card);
      if (state.picked) details(card, data, state, groups[state.picked[1]][state.picked[0]]);
    };
    show();
  };

  /* The cells of every pair under the settings that were chosen. */
  const grouped = (data, { chosen }) => {
    const groups = data.sources.map(() => data.targets.map(() => []));
    const wanted = (cell) => chosen.every((at, i) => at === "" || data.settings[i].values[Number(at)] === cell.of[i]);
    for (const cell of data.cells) if (wanted(cell)) groups[cell.at[0]][cell.at[1]].push(cell);
    return groups;
  };
  const known = (cells, by) => cells.map((cell) => T.value(cell.values[by])).filter((v) => !Number.isNaN(v));

  const heat = (data, { by, picked }, groups, pick) => {
    const values = groups.map((row) => row.map((cells) => (cells.length ? mean(known(cells, by)) : undefined)));
    const failed = (cells) => cells.filter((cell) => cell.error);
    const says = (x, y, v) => {
      const cells = groups[y][x],
        lost = failed(cells),
        several = known(cells, by).length;
      return [
        `${data.sources[y]} to ${data.targets[x]}: ${data.quantities[by]} ${T.num(v)}`,
        several > 1 && `, mean of ${several} cells`,
        lost.length > 0 && `; ${lost.length} failed`,
      ]
        .filter(Boolean)
        .join("");
    };
    const grid = T.grid(values, {
      label: `${data.quantities[by]} of ${data.sources.length} sources and ${data.targets.length} targets`,
      says,
      pick,
      picked,
      most: 40,
      width: 1000,
      columns: { title: "target →", name: (i) => cut(data.targets[i]), tilt: data.targets.some((name) => cut(name).length > 3) },
      rows: { title: "source ↓", name: (i) => cut(data.sources[i]) },
    });
    const rows = () => [
      ["source", ...data.targets],
      ...values.map((row, y) => [data.sources[y], ...row.map((v) => (v === undefined ? "" : v))]),
    ];
    return [
      T.figure(`sensitivity, ${data.quantities[by]}`, grid.node, rows),
      el(
        "p",
        { class: "note" },
        "Empty: not searched. Hatched: nothing was measured, or the search failed. Click a cell, or move with the arrow keys and press Enter, for its details.",
      ),
    ];
  };

  const details = (root, data, { picked: [x, y] }, cells) => {
    const names = [...data.settings.map((s) => s.name), ...data.quantities],
      failed = cells.some((cell) => cell.error);
    T.put(
      root,
      el("h3", {}, "Picked"),
      el("p", {}, el("span", { class: "said" }, data.sources[y]), " to ", el("span", { class: "said" }, data.targets[x])),
    );
    if (!cells.length) {
      T.add(root, el("p", { class: "note" }, "This pair was not searched."));
      return;
    }
    const table = el(
      "table",
      {},
      el(
        "thead",
        {},
        el(
          "tr",
          {},
          names.map((name) => el("th", { scope: "col" }, name)),
          failed && el("th", { scope: "col" }, "failed"),
        ),
      ),
      el(
        "tbody",
        {},
        cells.slice(0, 200).map((cell) =>
          el(
            "tr",
            {},
            cell.of.map((said) => el("td", { class: "said" }, said)),
            cell.values.map((v) => el("td", { class: "num", style: { textAlign: "left" } }, T.num(v))),
            failed && el("td", { class: "said" }, cell.error),
          ),
        ),
      ),
    );
    T.add(
      root,
      T.figure("cells of a pair", el("div", { class: "wide" }, table), () => [
        [...names, "error"],
        ...cells.map((cell) => [...cell.of, ...cell.values.map(T.value), cell.error]),
      ]),
    );
  };
})();
