/* Heads as a list: by layer, by change or by attribution; one stop of the Tab key, arrows walk. */
(() => {
  const T = TlSteer, el = T.el;
  const MOST = 400; // lines

  const falling = (a, b) => (Number.isNaN(a) || Number.isNaN(b) ? Number.isNaN(a) - Number.isNaN(b) : b - a);
  const COLUMNS = [
    { name: "head", way: "ascending", order: (a, b) => a.layer - b.layer || a.head - b.head },
    { name: "change", way: "descending", order: (a, b) => falling(a.change, b.change) },
    { name: "attribution", way: "descending", order: (a, b) => falling(Math.abs(a.by), Math.abs(b.by)) },
  ];
  const bar = (h, top) => {
    const width = Number.isFinite(h.change) ? 56 * Math.abs(h.change) / top : 0;
    return el("span", { class: h.within ? "heads-bar within" : "heads-bar", style: { width: width + "px" } });
  };
  const line = (h, heads, top, pick) => el("tr", {},
    el("td", {}, el("button",
      { type: "button", "data-head": h.name, "aria-label": heads.says(h), onclick: () => pick(h.layer, h.head) }, h.name),
      h.whole && el("span", { class: "heads-whole" }, "whole")),
    el("td", { class: "num" }, bar(h, top), T.num(h.change)),
    heads.toward && el("td", { class: "num" }, T.num(h.by, true)));

  /* Gives { node, choose(name) }. Only sorting makes lines anew, so that picking one keeps the focus. */
  T.headList = (heads, pick) => {
    const columns = COLUMNS.filter((c) => c.name !== "attribution" || heads.toward);
    const top = T.most(heads.all.map((h) => h.change)) || 1;
    const body = el("tbody"), rest = el("p", { class: "note" });
    let by = columns[1], chosen = "";
    const buttons = () => [...body.querySelectorAll("button")];
    const mark = () => {
      const all = buttons(), on = all.find((b) => b.dataset.head === chosen) || all[0];
      all.forEach((b) => { b.tabIndex = b === on ? 0 : -1; b.setAttribute("aria-pressed", String(b.dataset.head === chosen)); });
    };
    const titles = columns.map((column) => el("th", { scope: "col", class: column === columns[0] ? null : "num" },
      el("button", { type: "button", onclick: () => { by = column; fill(); } }, column.name)));
    const fill = () => {
      titles.forEach((th) => th.removeAttribute("aria-sort"));
      titles[columns.indexOf(by)].setAttribute("aria-sort", by.way);
      T.put(body, [...heads.all].sort(by.order).slice(0, MOST).map((h) => line(h, heads, top, pick)));
      rest.textContent = heads.all.length > MOST ? `The first ${MOST} of ${heads.all.length} heads; the grid has all.` : "";
      mark();
    };
    body.addEventListener("keydown", (event) => {
      const all = buttons(), at = all.indexOf(document.activeElement);
      const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: all.length - 1 }[event.key];
      if (!all[to]) return;
      all[at].tabIndex = -1;
      all[to].tabIndex = 0;
      all[to].focus();
      event.preventDefault();
      event.stopPropagation();
    });
    fill();
    const table = el("table", {}, el("thead", {}, el("tr", {}, titles)), body);
    const frame = el("div", { class: "heads-list" }, table);
    const reveal = () => {
      const on = buttons().find((b) => b.dataset.head === chosen);
      const line = on && on.closest("tr"), from = line && line.offsetTop - line.offsetHeight;
      if (line && (from < frame.scrollTop || from > frame.scrollTop + frame.clientHeight - 3 * line.offsetHeight)) frame.scrollTop = from;
    };
    return { node: el("div", {}, frame, rest), choose: (name) => { chosen = name; mark(); reveal(); } };
  };
})();
