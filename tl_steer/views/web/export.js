/* Pictures and tables as files: CSV of the numbers, SVG of what is drawn, PNG of the SVG.
   The SVG is made of rectangles, texts and the charts' own shapes, so that it opens in every program. */
(() => {
  const T = TlSteer, el = T.el;
  const xml = (text) => text.replace(/[^\t\n\r\x20-\ud7ff\ue000-\ufffd\u{10000}-\u{10ffff}]/gu, "\ufffd");
  const fixed = (x) => Number(x.toFixed(2));
  const seen = (colour) => colour && colour !== "none" && colour !== "transparent" && !/^rgba\(.*, 0\)$/.test(colour);

  /* rows of texts and numbers */
  const FORMULA = /^\t|^\s*[=+\-@＝＋－＠]/;
  const cell = (value) => {
    if (typeof value === "number") return Number.isNaN(value) ? "NaN" : Math.abs(value) === Infinity ? (value < 0 ? "-inf" : "inf") : String(value);
    if (value === null) return "NaN";
    const text = value === undefined ? "" : String(value);
    const safe = FORMULA.test(text) ? "'" + text : text;
    return /[",\r\n]|^'/.test(safe) ? `"${safe.replace(/"/g, '""')}"` : safe;
  };
  T.csv = (rows) => rows.map((row) => row.map(cell).join(",") + "\r\n").join("");
  const ofTable = (table) => [...table.rows].map((row) => [...row.cells].map((c) => c.innerText.trim()));
  const rowsOf = (figure) => {
    if (figure.rows) return figure.rows();
    const table = figure.querySelector("table");
    return table ? ofTable(table) : null;
  };

  /* what is drawn, as one SVG */
  const INLINE = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "stroke-linecap", "stroke-linejoin", "stroke-opacity", "paint-order", "opacity",
    "font-family", "font-size", "font-weight", "text-anchor", "dominant-baseline"];
  const charted = (node) => {
    const copy = node.cloneNode(true), from = [node, ...node.querySelectorAll("*")], to = [copy, ...copy.querySelectorAll("*")];
    from.forEach((one, i) => {
      const own = getComputedStyle(one);
      for (const name of INLINE) to[i].setAttribute(name, own.getPropertyValue(name));
      to[i].removeAttribute("class"); to[i].removeAttribute("style"); to[i].removeAttribute("tabindex");
    });
    return copy;
  };
  const at = (box, origin) => ({ x: fixed(box.left - origin.left), y: fixed(box.top - origin.top), width: fixed(box.width), height: fixed(box.height) });

  /* Lines of a text node, as they were broken: [text, box]. */
  const lines = (node) => {
    const range = document.createRange(), found = [];
    for (const piece of node.data.matchAll(/\S+\s*|\s+/gu)) {
      range.setStart(node, piece.index); range.setEnd(node, piece.index + piece[0].length);
      const [box, second] = range.getClientRects(), last = found[found.length - 1];
      if (!box || !box.width) continue;
      if (second && second.top > box.top + 2) found.push(...letters(node, piece));
      else if (last && Math.abs(last[1].top - box.top) < 2) last[0] += piece[0];
      else found.push([piece[0], box]);
    }
    return found;
  };
  const letters = (node, piece) => {
    const range = document.createRange(), found = [];
    let place = piece.index;
    for (const letter of piece[0]) {
      range.setStart(node, place); range.setEnd(node, place += letter.length);
      const box = range.getBoundingClientRect(), last = found[found.length - 1];
      if (last && Math.abs(last[1].top - box.top) < 2) last[0] += letter; else found.push([letter, box]);
    }
    return found;
  };
  /* A cell that hides what does not fit shows the beginning, on one line. */
  const fitting = (node, text, size) => {
    const cell = node.parentElement.closest("td, th");
    if (!cell || getComputedStyle(cell).textOverflow !== "ellipsis") return text;
    const room = cell.getBoundingClientRect().right, range = document.createRange(), start = node.data.indexOf(text);
    for (let long = text.length; long > 0; long--) {
      range.setStart(node, start); range.setEnd(node, start + long);
      const whole = long === text.length;
      if (range.getBoundingClientRect().right + (whole ? 0 : size) <= room) return whole ? text : text.slice(0, long) + "…";
    }
    return "";
  };
  const texts = (node, origin) => {
    const own = getComputedStyle(node.parentElement), size = parseFloat(own.fontSize);
    const upper = own.textTransform === "uppercase" ? (text) => text.toUpperCase() : (text) => text;
    return lines(node).map(([text, box]) => T.svg("text", {
      x: fixed(box.left - origin.left), y: fixed(box.top - origin.top + box.height / 2 + size * 0.35), fill: own.color,
      "font-family": own.fontFamily, "font-size": own.fontSize, "font-weight": own.fontWeight,
      "letter-spacing": own.letterSpacing === "normal" ? null : own.letterSpacing, "xml:space": "preserve",
    }, upper(xml(fitting(node, text, size)))));
  };

  /* The grounds that our charts have: a colour, a scale from left to right, and the marks of T.painted. */
  const ground = (node, origin, defs) => {
    const own = getComputedStyle(node), box = at(node.getBoundingClientRect(), origin), found = [];
    if (!box.width || !box.height) return found;
    const place = { ...box, rx: parseFloat(own.borderTopLeftRadius) || 0 };
    const pressed = node.matches(".token[aria-pressed='true']"), framed = parseFloat(own.borderTopWidth) && parseFloat(own.borderBottomWidth) && seen(own.borderTopColor);
    const edge = pressed ? own.color : framed ? own.borderTopColor : null;
    if (seen(own.backgroundColor) || edge) found.push(T.svg("rect", { ...place, fill: seen(own.backgroundColor) ? own.backgroundColor : "none", stroke: edge }));
    if (own.backgroundImage !== "none") {
      const fill = own.backgroundImage.startsWith("repeating") ? striped(own.backgroundImage, defs) : gradient(own.backgroundImage, defs);
      if (fill) found.push(T.svg("rect", { ...place, fill }));
    }
    const line = parseFloat(own.borderBottomWidth);
    if (line && !framed && seen(own.borderBottomColor)) found.push(T.svg("rect", { ...box, y: fixed(box.y + box.height - line), height: line, fill: own.borderBottomColor }));
    return found;
  };
  const COLOUR = /rgba?\([^)]*\)/;
  /* One for all that look the same. */
  const named = (defs, image, make) => {
    const known = [...defs.children].findIndex((one) => one.image === image), id = "d" + (known < 0 ? defs.children.length : known);
    if (known < 0) { const node = make(); node.setAttribute("id", id); node.image = image; defs.append(node); }
    return `url(#${id})`;
  };
  const striped = (image, defs) => {
    const [colour] = image.match(COLOUR) || ["grey"], slanted = image.includes("-45deg");
    return named(defs, image, () => T.svg("pattern", { width: 4, height: 4, patternUnits: "userSpaceOnUse", patternTransform: slanted ? "rotate(-45)" : null },
      T.svg("rect", { width: 4, height: 1, fill: colour })));
  };
  const gradient = (image, defs) => {
    const stops = [...image.matchAll(/(rgba?\([^)]*\))\s*([\d.]+)?%?/g)];
    if (stops.length < 2 || !image.startsWith("linear-gradient(90deg")) return null;
    return named(defs, image, () => T.svg("linearGradient", {}, stops.map(([, colour, place], i) =>
      T.svg("stop", { offset: (place === undefined ? (100 * i) / (stops.length - 1) : place) + "%", "stop-color": colour }))));
  };

  const marked = (node, origin) => {
    if (!node.matches(".infinite")) return null;
    const box = at(node.getBoundingClientRect(), origin), falls = node.matches(".bar.falls");
    return T.svg("text", { x: falls ? box.x + 3 : box.x + box.width - 3, y: box.y + box.height / 2 + 4, fill: getComputedStyle(node, "::after").color,
      "font-size": "11px", "font-weight": 700, "text-anchor": falls ? "start" : "end" }, "∞");
  };
  const shapes = (node, origin, defs) => {
    if (node.nodeType === Node.TEXT_NODE) return node.data.trim() ? texts(node, origin) : [];
    if (node.nodeType !== Node.ELEMENT_NODE || node.matches(".no-print, script, style")) return [];
    const own = getComputedStyle(node);
    if (own.display === "none" || own.visibility === "hidden") return [];
    const box = at(node.getBoundingClientRect(), origin);
    if (own.overflow === "hidden" && box.width <= 1) return [];  // only for those who listen
    if (node.tagName === "svg") { const copy = charted(node); for (const name in box) copy.setAttribute(name, box[name]); return [copy]; }
    if (node.tagName === "CANVAS") return [...ground(node, origin, defs), T.svg("image", { ...box, href: node.toDataURL(), preserveAspectRatio: "none", style: { imageRendering: "pixelated" } })];
    if (node.tagName === "IMG") return [T.svg("image", { ...box, href: node.src })];
    if (node.tagName === "SELECT") return chosen(node, node.selectedOptions[0] ? node.selectedOptions[0].text : "", origin);
    return [...ground(node, origin, defs), ...[...node.childNodes].flatMap((child) => shapes(child, origin, defs)), marked(node, origin)];
  };
  const chosen = (node, text, origin) => {
    const own = getComputedStyle(node), box = at(node.getBoundingClientRect(), origin);
    return [T.svg("text", { x: box.x + 8, y: fixed(box.y + box.height / 2 + parseFloat(own.fontSize) * 0.35), fill: own.color, "font-family": own.fontFamily, "font-size": own.fontSize }, xml(text))];
  };

  /* One SVG document of what an element shows, on the page's paper. */
  T.drawing = (node, name) => {
    const box = node.getBoundingClientRect(), pad = 12, defs = T.svg("defs", {});
    const right = Math.max(box.right, ...Array.from(node.querySelectorAll("*"), (one) => one.getBoundingClientRect().right));
    const width = Math.ceil(right - box.left) + 2 * pad, height = Math.ceil(box.height) + 2 * pad;
    const origin = { left: box.left - pad, top: box.top - pad };
    const root = T.svg("svg", { width, height, viewBox: `0 0 ${width} ${height}` }, T.svg("title", {}, xml(name)), defs,
      T.svg("rect", { width, height, fill: getComputedStyle(document.body).backgroundColor }), shapes(node, origin, defs));
    return { width, height, text: new XMLSerializer().serializeToString(root) };
  };
  /* The same as pixels, twice as fine; coarser where a browser would not hold so large a picture. */
  T.pixels = async ({ width, height, text }) => {
    const scale = Math.min(2, 16000 / Math.max(width, height), Math.sqrt(64e6 / (width * height)));
    const image = new Image();
    image.src = "data:image/svg+xml;base64," + btoa(Array.from(new TextEncoder().encode(text), (byte) => String.fromCharCode(byte)).join(""));
    await image.decode();
    const canvas = el("canvas", { width: Math.round(width * scale), height: Math.round(height * scale) });
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    return new Promise((done) => canvas.toBlob(done, "image/png"));
  };

  const download = (blob, name, suffix) => {
    const safe = name.normalize("NFKC").replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-+|-+$/g, "").slice(0, 60) || "figure";
    const url = URL.createObjectURL(blob), link = el("a", { href: url, download: `${safe}.${suffix}` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  };
  const ACTS = {
    PNG: async (figure, name) => download(await T.pixels(T.drawing(figure.body, name)), name, "png"),
    SVG: async (figure, name) => download(new Blob([T.drawing(figure.body, name).text], { type: "image/svg+xml" }), name, "svg"),
    CSV: async (figure, name) => download(new Blob([T.csv(rowsOf(figure))], { type: "text/csv" }), name, "csv"),
  };

  /* A picture or a table with a name, and buttons that save it; `rows` gives it as rows of texts and numbers,
     the first of names. A table gives its own. */
  T.figure = (name, node, rows = null) => {
    const body = el("div", { class: "figure-body" }, node), said = el("span", { role: "status" });
    const figure = el("figure", { class: "figure" }, body);
    Object.assign(figure, { body, rows, called: name });
    const act = (kind) => () => ACTS[kind](figure, name).then(() => { said.textContent = ""; }, (error) => { said.textContent = `${kind} failed: ${error}`; });
    const kinds = rows || figure.querySelector("table") ? ["PNG", "SVG", "CSV"] : ["PNG", "SVG"];
    T.add(figure, el("div", { class: "exports no-print", role: "group", "aria-label": `Save “${T.capped(name)}” as` },
      kinds.map((kind) => el("button", { type: "button", onclick: act(kind) }, kind)), said));
    return figure;
  };

  /* For `View.save` in Python: the whole view, or the rows of all that is in it. */
  T.exported = {
    svg: () => T.drawing(document.getElementById("root"), document.title).text,
    png: async () => {
      const blob = await T.pixels(T.drawing(document.getElementById("root"), document.title));
      const read = new FileReader();
      return new Promise((done) => { read.onload = () => done(read.result.split(",")[1]); read.readAsDataURL(blob); });
    },
    csv: () => {
      const found = [...document.querySelectorAll("figure.figure")].map((figure) => [figure.called, rowsOf(figure)]).filter(([, rows]) => rows);
      const loose = [...document.querySelectorAll("table")].filter((table) => !table.closest("figure.figure")).map((table) => ["", ofTable(table)]);
      const all = [...found, ...loose];
      return all.map(([name, rows]) => (all.length > 1 ? T.csv([[name]]) : "") + T.csv(rows)).join("\r\n");
    },
  };
})();
