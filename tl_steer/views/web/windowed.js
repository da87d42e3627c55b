/* A table of thousands of rows, sorted and filtered, of which only those in sight are in the page. */
(() => {
  const T = TlSteer, el = T.el;
  const HIGH = 30, SPARE = 8, PRINTED = 1000;
  const unknown = (v) => v === null || v === undefined || v === "" || Number.isNaN(v);
  const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);

  /* The places of rows that hold all words, in order; what is unknown is last, whichever way.
     A word #3 is that very number. */
  const ordered = (rows, columns, { by, down, words }) => {
    const column = columns.find((c) => c.key === by) || columns[0];
    const said = (row) =>
      columns
        .map((c) => String(c.said(row)))
        .join(" ")
        .toLowerCase();
    const fits = (row) =>
      words.every((w) => (/^#\d+$/.test(w) ? columns.some((c) => c.id && c.id(row) === w.slice(1)) : said(row).includes(w)));
    const found = rows.map((row, i) => [column.value(row), i]).filter(([, i]) => !words.length || fits(rows[i]));
    found.sort(
      ([a, i], [b, j]) =>
        (unknown(a) || unknown(b) ? unknown(a) - unknown(b) : (down ? -1 : 1) * compare(a, b)) || (down ? j - i : i - j),
    );
    return found.map(([, i]) => i);
  };

  /* columns: { key, name, width, num, minor, said(row) -> text, value(row) -> number or text, id(row) }.
     `pick(i)` is told of the row that is picked, by mouse or by arrows, j, k, Home and End. Sort and
     filter are in the address as s and q. */
  T.windowed = (rows, columns, { label, height = 560, first = columns[0].key, pick }) => {
    const sorted = T.at.get("s") || "-" + first;
    const state = { by: sorted.replace(/^-/, ""), down: sorted.startsWith("-"), words: [] };
    let order = [],
      at = -1;
    const name = "w" + Math.random().toString(36).slice(2, 8),
      id = (i) => `${name}-${i}`;
    const count = el("span", { class: "small", role: "status" });
    const filter = el("input", {
      type: "search",
      class: "filter",
      placeholder: "Filter",
      "aria-label": `Filter ${label}`,
      value: T.at.get("q") || "",
    });
    const heads = columns.map((c) =>
      el(
        "th",
        {
          scope: "col",
          role: "columnheader",
          class: [c.num && "num", c.minor && "minor"].filter(Boolean).join(" "),
          style: { width: c.width || "auto" },
        },
        el("button", { type: "button", onclick: () => sort(c) }, c.name),
      ),
    );
    const above = el("td"),
      below = el("td");
    const body = el("tbody");
    const table = el(
      "table",
      { role: "presentation" },
      el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, heads)),
      body,
    );
    const box = el(
      "div",
      { class: "windowed", role: "grid", tabindex: "0", "aria-label": label, style: { maxHeight: height + "px" } },
      table,
    );

    const row = (place) => {
      const i = order[place];
      return el(
        "tr",
        {
          id: id(i),
          role: "row",
          "aria-rowindex": place + 2,
          "aria-selected": String(i === at),
          "data-row": i,
          onclick: () => choose(i),
        },
        columns.map((c) => {
          const said = c.said(rows[i]);
          return el(
            "td",
            { role: "gridcell", class: [c.num && "num", c.minor && "minor"].filter(Boolean).join(" "), title: said },
            T.token(said),
          );
        }),
      );
    };
    let drawn = "",
      whole = false;
    const draw = (anew) => {
      const from = whole ? 0 : Math.max(0, Math.floor(box.scrollTop / HIGH) - SPARE);
      const to = Math.min(order.length, whole ? PRINTED : from + Math.ceil(height / HIGH) + 2 * SPARE);
      if (!anew && drawn === `${from} ${to}`) return;
      drawn = `${from} ${to}`;
      above.style.height = from * HIGH + "px";
      below.style.height = (order.length - to) * HIGH + "px";
      T.put(
        body,
        from > 0 && el("tr", { class: "gap", "aria-hidden": "true" }, above),
        Array.from({ length: to - from }, (_, k) => row(from + k)),
        to < order.length && el("tr", { class: "gap", "aria-hidden": "true" }, below),
      );
      box.setAttribute("aria-activedescendant", document.getElementById(id(at)) ? id(at) : "");
    };
    const fill = () => {
      state.words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
      order = ordered(rows, columns, state);
      columns.forEach((c, k) => {
        if (c.key === state.by) heads[k].setAttribute("aria-sort", state.down ? "descending" : "ascending");
        else heads[k].removeAttribute("aria-sort");
      });
      box.setAttribute("aria-rowcount", order.length + 1);
      count.textContent = (order.length === rows.length ? `${rows.length}` : `${order.length} of ${rows.length}`) + " " + label;
      draw(true);
    };
    const sort = (column) => {
      state.down = state.by === column.key ? !state.down : !!column.num;
      state.by = column.key;
      T.at.set({ s: (state.down ? "-" : "") + column.key });
      fill();
      show(at);
    };
    /* brings a row into sight, without moving the page */
    const show = (i) => {
      const place = order.indexOf(i);
      if (place < 0) return;
      const y = place * HIGH,
        room = box.clientHeight - table.tHead.offsetHeight;
      if (y < box.scrollTop) box.scrollTop = y;
      else if (y + HIGH > box.scrollTop + room) box.scrollTop = y + HIGH - room;
      draw(true);
    };
    const choose = (i) => {
      at = i;
      show(i);
      pick(i);
    };
    const print = (all) => () => {
      whole = all;
      draw(true);
    };
    T.whilePrinting(box, print(true), print(false));
    box.addEventListener("scroll", () => requestAnimationFrame(() => draw(false)));
    box.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const place = order.indexOf(at),
        page = Math.max(1, Math.floor(box.clientHeight / HIGH) - 2),
        last = order.length - 1;
      const to = {
        ArrowDown: place + 1,
        j: place + 1,
        ArrowUp: place - 1,
        k: place - 1,
        Home: 0,
        End: last,
        PageDown: place + page,
        PageUp: place - page,
      }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      event.stopPropagation();
      if (order.length) choose(order[Math.max(0, Math.min(last, to))]);
    });
    filter.addEventListener("input", () => {
      T.at.set({ q: filter.value });
      box.scrollTop = 0;
      fill();
    });
    fill();
    return {
      node: el(
        "div",
        {},
        el(
          "div",
          { class: "row" },
          filter,
          count,
          el("span", { class: "small hide-small" }, el("kbd", {}, "j"), " ", el("kbd", {}, "k"), " move"),
        ),
        box,
      ),
      choose,
      order: () => order,
      rows: () => [
        columns.map((c) => c.name),
        ...order.map((i) => columns.map((c) => (c.num ? c.value(rows[i]) : c.said(rows[i])))),
      ],
    };
  };
})();
