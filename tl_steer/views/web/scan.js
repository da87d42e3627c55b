/* Pairs of hook points as a heat map. */
(() => {
  const T = TlSteer, el = T.el;
  const short = (name) => { const found = /^blocks\.(\d+)\.hook_resid_post$/.exec(name); return found ? found[1] : name; };
  const cut = (name) => { const text = short(name); return text.length > 24 ? text.slice(0, 23) + "…" : text; };
  const mean = (values) => (values.length ? values.reduce((a, b) => a + b, 0) / values.length : NaN);

  T.draw.scan = (root, data) => {
    let by = 0;
    const picked = data.settings.map(() => "");
    const body = el("div"), bar = el("div", { class: "row" }, data.quantities.map((name, i) => el("button", { type: "button", onclick: () => { by = i; show(); } }, name)));
    const choices = data.settings.map((setting, i) => el("label", { class: "small" }, setting.name + " ", el("select", { onchange: (event) => { picked[i] = event.target.value; show(); } },
      el("option", { value: "" }, "all, averaged"), setting.values.map((value, j) => el("option", { value: String(j) }, T.short(value))))));
    T.add(root, bar, choices.length > 0 && el("div", { class: "row" }, choices), body);

    const wanted = (cell) => picked.every((at, i) => at === "" || data.settings[i].values[Number(at)] === cell.of[i]);
    const show = () => {
      [...bar.children].forEach((b, i) => b.setAttribute("aria-pressed", String(i === by)));
      const groups = data.sources.map(() => data.targets.map(() => []));
      for (const cell of data.cells) if (wanted(cell)) groups[cell.at[0]][cell.at[1]].push(cell);
      const numbers = (cells) => cells.map((cell) => T.value(cell.values[by])).filter(Number.isFinite);
      const rows = groups.map((row) => row.map((cells) => mean(numbers(cells))));
      const top = T.most(rows.flat()) || 1, low = Math.min(0, ...rows.flat().filter(Number.isFinite));
      const across = data.targets.length, down = data.sources.length;
      const wide = Math.max(14, Math.min(54, Math.floor(880 / across))), high = Math.max(14, Math.min(30, wide));
      const longest = Math.max(...data.sources.map((name) => cut(name).length)), left = 30 + Math.max(34, 7 * longest);
      const slanted = data.targets.some((name) => cut(name).length * 7 > wide), head = slanted ? 40 + 5 * Math.max(...data.targets.map((name) => cut(name).length)) : 40;
      const width = left + across * wide + (slanted ? 0.7 * head : 4), height = head + down * high + 4;
      const svg = T.svg("svg", { viewBox: `0 0 ${width} ${height}`, style: { width: width + "px" }, role: "img", "aria-label": `${data.quantities[by]} of ${down} sources and ${across} targets` });
      T.add(svg, T.svg("text", { x: left + (across * wide) / 2, y: 12, "text-anchor": "middle" }, "target"),
        T.svg("text", { x: 12, y: head + (down * high) / 2, "text-anchor": "middle", transform: `rotate(-90 12 ${head + (down * high) / 2})` }, "source"));
      data.targets.forEach((name, x) => {
        const at = left + (x + 0.5) * wide;
        T.add(svg, T.svg("text", slanted ? { class: "strong", x: at, y: head - 6, transform: `rotate(-50 ${at} ${head - 6})` } : { class: "strong", x: at, y: head - 8, "text-anchor": "middle" }, cut(name)));
      });
      data.sources.forEach((name, y) => {
        T.add(svg, T.svg("text", { class: "strong", x: left - 8, y: head + (y + 0.5) * high + 4, "text-anchor": "end" }, cut(name)));
        data.targets.forEach((target, x) => {
          const cells = groups[y][x];
          if (!cells.length) return;
          const v = rows[y][x], known = Number.isFinite(v), failed = cells.filter((cell) => cell.error);
          const box = { x: left + x * wide, y: head + y * high, width: wide - 1, height: high - 1, rx: 2 };
          const told = `${name} to ${target}: ${data.quantities[by]} ${T.num(v)}${cells.length > 1 ? `, mean of ${numbers(cells).length} cells` : ""}${failed.length ? `; ${failed.length} failed: ${failed[0].error.slice(0, 200)}` : ""}`;
          const style = known ? { fill: T.tint(v / top, 1) } : { fill: "none", stroke: "var(--rule)" };
          T.add(svg, T.tip(T.svg("rect", { ...box, style }), told));
          const label = known ? T.num(v) : failed.length ? "×" : "–";
          if (wide >= 34 || label === "×") T.add(svg, T.svg("text", { x: box.x + (wide - 1) / 2, y: box.y + high / 2 + 4, "text-anchor": "middle", "pointer-events": "none", style: { fill: known && T.depth(v / top) > T.UNDER_TEXT ? "var(--paper)" : "var(--ink)" } }, label));
        });
      });
      T.put(body, el("div", { class: "wide" }, svg), T.scale(low < 0 ? T.num(-top) : "0", T.num(top), low < 0),
        el("p", { class: "note", style: { marginTop: "8px" } }, "No box: not searched. ×: the search failed; point at it for the reason."));
    };
    show();
  };
})();
