/* Cells with axes, walked with the arrow keys. One cell can have the focus, the cursor: it moves, and
   says what it is on. So a grid of any size is one stop of the Tab key. */
(() => {
  const T = TlSteer, el = T.el, svg = T.svg;
  const STEPS = [1, 2, 5, 10, 20, 25, 50, 100];

  /* Where names stand along an axis: as many as there is room for. */
  const ticks = (count, size, room) => {
    const least = Math.max(1, Math.ceil(room / size)), step = STEPS.find((n) => n >= least) || least;
    return Array.from({ length: Math.ceil(count / step) }, (_, i) => i * step);
  };
  const longest = (axis, count) => Math.max(0, ...Array.from({ length: count }, (_, i) => axis.name(i).length));
  const label = (text, x, y, anchor, turn) => svg("text", { x, y, "text-anchor": anchor, transform: turn }, text);

  const axes = ({ columns, rows, across, down, size, left, above }) => {
    const aslant = (x) => (columns.tilt ? `rotate(-60 ${x} ${above - 4})` : null);
    const middle = (i) => (i + 0.5) * size, anchor = columns.tilt ? "start" : "middle";
    const titles = [rows.title, columns.title].filter(Boolean).join("   ");
    return svg("g", { "aria-hidden": "true" }, titles && svg("text", { class: "strong", x: 0, y: 11 }, titles),
      ticks(across, size, columns.tilt ? 11 : 8 * longest(columns, across) + 6)
        .map((x) => label(columns.name(x), left + middle(x), above - 4, anchor, aslant(left + middle(x)))),
      ticks(down, size, 11).map((y) => label(rows.name(y), left - 5, above + middle(y) + 3.5, "end", null)));
  };

  /* How large cells are, and what stands around them. */
  const arrange = (values, options, room) => {
    const [columns, rows] = [options.columns, options.rows].map((axis) => ({ title: "", name: String, tilt: false, ...axis }));
    const down = values.length, across = Math.max(1, down ? values[0].length : 0);
    const left = Math.max(10, 7 * longest(rows, down) + 8), right = columns.tilt ? 24 : 4;
    const above = columns.tilt ? Math.min(110, 6.2 * longest(columns, across) + 14) : columns.title || rows.title ? 34 : 18;
    const fits = Math.floor((Math.min(options.width || 640, room) - left - right) / across);
    const size = Math.max(options.least || 9, Math.min(options.most || 26, fits));
    const width = left + across * size + right, height = above + down * size + 2;
    return { columns, rows, down, across, left, above, size, width, height };
  };

  const target = (key, [x, y], { across, down }) => ({
    ArrowLeft: [x - 1, y], ArrowRight: [x + 1, y], ArrowUp: [x, y - 1], ArrowDown: [x, y + 1],
    Home: [0, y], End: [across - 1, y], PageUp: [x, 0], PageDown: [x, down - 1],
  })[key];

  /* One floating card for the page, beside a cell, for what `peek` draws. */
  let card = null;
  const hide = () => { if (card) card.hidden = true; };
  const float = (content, box) => {
    if (!content) { hide(); return; }
    card = card || document.body.appendChild(el("div", { class: "grid-peek", "aria-hidden": "true" }));
    T.put(card, content);
    card.hidden = false;
    const right = box.right + 14, fits = right + card.offsetWidth < innerWidth;
    card.style.left = (fits ? right : Math.max(4, box.left - card.offsetWidth - 14)) + "px";
    card.style.top = Math.max(4, Math.min(box.top, innerHeight - card.offsetHeight - 4)) + "px";
  };
  addEventListener("hashchange", hide);
  addEventListener("scroll", hide, { passive: true });

  /* What is drawn over the cells: frames, and the cursor in its row. */
  const frames = () => {
    const frame = (name) => svg("rect", { class: name });
    const cursor = svg("rect", { class: "grid-cursor", role: "gridcell", tabindex: 0 });
    return {
      cursor, row: svg("g", { role: "row" }, cursor), halo: frame("grid-halo"), lines: [frame("grid-line"), frame("grid-line")],
      rings: [frame("grid-ring"), frame("grid-picked")],
    };
  };
  const put = (shape, layout, place, [wide, high] = [1, 1]) => {
    shape.style.display = place ? "" : "none";
    if (!place) return;
    const { left, above, size } = layout, [x, y] = place;
    const box = [left + x * size - 1, above + y * size - 1, wide * size + 1, high * size + 1];
    ["x", "y", "width", "height"].forEach((name, i) => shape.setAttribute(name, box[i]));
  };

  /* Where the cursor begins: at the largest number. */
  const largest = (values) => {
    let place = [0, 0], most = -1;
    values.forEach((row, y) => row.forEach((raw, x) => {
      if (Math.abs(T.value(raw)) > most) [place, most] = [[x, y], Math.abs(T.value(raw))];
    }));
    return place;
  };

  /* values[y][x]: numbers, null or NaN for none, undefined for cells that are not there.
       label: its accessible name; columns, rows: { title, name: (i) => text, tilt: names of columns aslant }
       says(x, y, value): what a cell is, for eyes and for a screen reader
       pick(x, y), picked: what click and Enter do, and the cell that was picked
       over(x, y): called as the mouse or the cursor is on a cell, and without numbers as it leaves
       peek(x, y): an element shown beside a cell meanwhile, in place of the words
       marks: { values, up, down }: corner marks by a second matrix, and what they mean
       band: { low, high, says }: matrices; numbers between them are drawn small and grey
       limit, signed: the number of full colour, and whether the scale has two sides
       width; least, most: of the whole at most; of a cell, in pixels
     Gives { node, focus(), choose(x, y), frame(x, y) }: choose moves the cursor and the mark of what is
     picked, frame draws lines around a column and a row, or takes them away. */
  T.grid = (values, options = {}) => {
    const { says = (x, y, raw) => T.num(raw), pick = null, marks = null, peek = null, band = null, over = () => {} } = options;
    const top = options.limit || T.most(values.flat()) || 1, { cursor, row, halo, lines, rings } = frames();
    const there = ([x, y]) => !!values[y] && values[y][x] !== undefined, text = ([x, y]) => says(x, y, values[y][x]);
    const told = el("p", { class: "grid-told", "aria-live": "polite" });
    const picture = svg("svg", {
      class: "grid-picture", role: "grid", "aria-label": options.label || "Grid",
      "aria-rowcount": values.length, "aria-colcount": values.length ? values[0].length : 0,
    });
    const room = el("div", { class: "grid-room" }, picture);
    const node = el("div", { class: "grid" }, room, T.cellsLegend(values, top, { band, marks, signed: options.signed }), told);
    let layout = null, at = options.picked || largest(values), picked = options.picked || null, crossed = [null, null];

    const frame = (x = null, y = null) => {
      crossed = [x, y];
      put(lines[0], layout, x === null ? null : [x, 0], [1, layout.down]);
      put(lines[1], layout, y === null ? null : [0, y], [layout.across, 1]);
    };
    const show = () => {
      [cursor, halo].forEach((shape) => put(shape, layout, at));
      rings.forEach((shape) => put(shape, layout, picked));
      told.textContent = there(at) ? text(at) : "";
      cursor.setAttribute("aria-label", told.textContent);
      cursor.setAttribute("aria-colindex", at[0] + 1);
      row.setAttribute("aria-rowindex", at[1] + 1);
      cursor.setAttribute("aria-selected", String(!!picked && picked.join() === at.join()));
    };
    const lay = () => {
      const next = arrange(values, options, room.clientWidth || Math.max(240, innerWidth - 60));
      if (layout && next.size === layout.size) return;
      layout = next;
      for (const name of ["width", "height"]) picture.setAttribute(name, next[name]);
      const focused = document.activeElement === cursor, { across, down, size, left, above } = next;
      T.put(picture, axes(next), svg("g", { transform: `translate(${left} ${above})`, "aria-hidden": "true" },
        svg("rect", { class: "grid-paper", width: across * size, height: down * size }),
        T.cells(values, { limit: top, size, band }), marks && T.corners(marks.values, size)), lines, rings, halo, row);
      show();
      frame(...crossed);
      if (focused) cursor.focus({ preventScroll: true });
    };
    const under = (event) => {
      const edge = picture.getBoundingClientRect(), { left, above, size } = layout;
      const place = [event.clientX - edge.left - left, event.clientY - edge.top - above].map((n) => Math.floor(n / size));
      return there(place) ? place : null;
    };
    const look = (place, box) => { over(...(place || [])); if (peek) float(place && peek(...place), box); };
    const walk = (to) => {
      if (!there(to)) return;
      at = to;
      show();
      cursor.scrollIntoView({ block: "nearest", inline: "nearest" });
      look(at, cursor.getBoundingClientRect());
    };
    const choose = (x, y) => { at = picked = [x, y]; show(); };
    const chosen = () => { if (pick && there(at)) { hide(); choose(...at); pick(...at); } };

    picture.addEventListener("keydown", (event) => {
      const to = target(event.key, at, layout);
      if (event.key === "Enter" || event.key === " ") chosen(); else if (to) walk(to); else return;
      event.preventDefault();
      event.stopPropagation();
    });
    picture.addEventListener("click", (event) => {
      at = under(event) || at;
      show();
      cursor.focus({ preventScroll: true });
      if (under(event)) chosen();
    });
    picture.addEventListener("mousemove", (event) => {
      const { clientX: x, clientY: y } = event;
      look(under(event), { left: x, right: x, top: y + 8 });
    });
    // Around the picture: Chromium puts an SVG element that listens to focus among the Tab key's stops.
    for (const kind of ["mouseleave", "focusout"]) room.addEventListener(kind, () => look(null));
    if (!peek) T.tip(room, (event) => (under(event) ? text(under(event)) : ""));
    lay();
    new ResizeObserver(lay).observe(room);
    return { node, choose, frame, focus: () => cursor.focus() };
  };
})();
