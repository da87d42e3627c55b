"use strict";
/* What every picture is made of. Text goes into text nodes and attributes only: nothing here writes
   markup, so nothing that a model said can become any. */
const TlSteer = { draw: { ...globalThis.TlSteerOwn } };
(() => {
  const T = TlSteer;
  const SVG = "http://www.w3.org/2000/svg";

  const fill = (node, attributes, children) => {
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name === "text") node.textContent = value;
      else if (name === "style") Object.assign(node.style, value);
      else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else node.setAttribute(name, value === true ? "" : value);
    }
    for (const child of children.flat(Infinity)) {
      if (child !== null && child !== undefined && child !== false)
        node.append(child instanceof Node ? child : document.createTextNode(String(child)));
    }
    return node;
  };
  T.el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
  T.svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
  const el = T.el;
  /* The DOM's own append would write out "false" and run lists together. */
  T.add = (node, ...children) => fill(node, {}, children);
  T.put = (node, ...children) => { node.replaceChildren(); return fill(node, {}, children); };

  /* numbers */
  T.value = (x) => (x === "inf" ? Infinity : x === "-inf" ? -Infinity : x === null || x === undefined ? NaN : x);
  T.num = (raw, signed) => {
    const x = T.value(raw);
    if (Number.isNaN(x)) return "–";
    const sign = x < 0 ? "−" : signed && x > 0 ? "+" : "";
    const a = Math.abs(x);
    if (a === Infinity) return sign + "∞";
    if (a === 0) return "0";
    const text = a >= 10000 || a < 0.0005 ? a.toExponential(1).replace("e+", "e").replace("e-", "e−")
      : a >= 100 ? a.toFixed(0) : a >= 10 ? a.toFixed(1) : a >= 0.1 ? a.toFixed(2) : a.toFixed(3);
    return sign + text;
  };
  T.percent = (p) => {
    const x = 100 * T.value(p);
    if (Number.isNaN(x)) return "–";
    return x > 0 && x < 0.05 ? "<0.1 %" : x >= 99.95 && x < 100 ? ">99.9 %" : x.toFixed(x >= 10 ? 0 : 1) + " %";
  };
  T.most = (values) => values.reduce((m, v) => { const x = Math.abs(T.value(v)); return Number.isFinite(x) && x > m ? x : m; }, 0);
  T.token = (text) => (text === "" ? "∅" : text.replace(/\n/g, "⏎"));
  T.word = (text) => el("span", { class: "word" }, T.token(text));
  T.short = (text) => (text.length > 28 ? text.slice(0, 27) + "…" : text);
  T.quoted = (text) => "“" + T.token(text) + "”";

  /* colour: more and less of the same thing, on whatever the page's paper is */
  T.tint = (share, strength = 0.62) => {
    const s = Math.max(-1, Math.min(1, Number.isFinite(share) ? share : 0));
    return `rgba(var(${s < 0 ? "--less" : "--more"}), ${(Math.abs(s) * strength).toFixed(3)})`;
  };
  const channel = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).split(",").map(Number);

  /* one tooltip for the page; what it says is also an aria-label where it can be focused */
  let tip = null;
  T.tip = (node, text) => {
    const show = (event) => {
      tip = tip || document.body.appendChild(el("div", { class: "tip", role: "tooltip" }));
      const says = typeof text === "function" ? text(event) : text;
      if (!says) return hide();
      tip.textContent = says;
      tip.hidden = false;
      const box = event.clientX !== undefined && event.type !== "focus" ? { left: event.clientX, bottom: event.clientY + 12, top: event.clientY - 8 } : node.getBoundingClientRect();
      tip.style.left = Math.max(4, Math.min(box.left, innerWidth - tip.offsetWidth - 8)) + "px";
      const below = box.bottom + 6;
      tip.style.top = (below + tip.offsetHeight > innerHeight ? Math.max(4, box.top - tip.offsetHeight - 6) : below) + "px";
    };
    const hide = () => { if (tip) tip.hidden = true; };
    for (const kind of ["mousemove", "focus"]) node.addEventListener(kind, show);
    for (const kind of ["mouseleave", "blur"]) node.addEventListener(kind, hide);
    return node;
  };

  /* tokens of a prompt, tinted; a button each where one can be picked (arrow keys walk) */
  T.tokens = (tokens, { share = () => 0, says = () => "", pick = null, mark = () => "", picked = -1 } = {}) => {
    const box = el("div", { class: "tokens", role: pick ? "toolbar" : null, "aria-label": pick ? "Tokens of the prompt" : null });
    const nodes = tokens.map((text, i) => {
      const node = el(pick ? "button" : "span", {
        class: "token " + mark(i), type: pick ? "button" : null, "aria-pressed": pick ? String(i === picked) : null,
        tabindex: pick ? (i === Math.max(picked, 0) ? "0" : "-1") : null, style: { background: T.tint(share(i)) },
      }, T.token(text));
      const label = says(i);
      if (label) { T.tip(node, label); if (pick) node.setAttribute("aria-label", T.token(text) + ": " + label); }
      box.append(node);
      if (text.includes("\n")) box.append(el("br"));
      return node;
    });
    const choose = (i) => {
      nodes.forEach((node, j) => { node.setAttribute("aria-pressed", String(i === j)); node.tabIndex = i === j ? 0 : -1; });
      pick(i);
    };
    if (pick) {
      nodes.forEach((node, i) => node.addEventListener("click", () => choose(i)));
      box.addEventListener("keydown", (event) => {
        const at = nodes.indexOf(document.activeElement);
        const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: nodes.length - 1 }[event.key];
        if (to === undefined || !nodes[to]) return;
        event.preventDefault(); event.stopPropagation(); nodes[to].focus(); choose(to);
      });
    }
    return box;
  };

  /* a matrix as pixels; redrawn when light turns to dark */
  T.map = (rows, { limit = 0, cell = 0, width = 360, says = () => "", pick = null, label = "Map", rings = [] } = {}) => {
    const height = rows.length, across = height ? rows[0].length : 0;
    const top = limit || T.most(rows.flat()) || 1;
    const size = cell || Math.max(3, Math.min(26, Math.floor(width / Math.max(across, 1))));
    const canvas = el("canvas", { width: Math.max(across, 1) * size, height: Math.max(height, 1) * size, role: "img", "aria-label": label });
    const paint = () => {
      const pen = canvas.getContext("2d"), more = channel("--more"), less = channel("--less");
      pen.clearRect(0, 0, canvas.width, canvas.height);
      rows.forEach((row, y) => row.forEach((raw, x) => {
        const v = T.value(raw) / top;
        if (!Number.isFinite(v)) return;
        const [r, g, b] = v < 0 ? less : more;
        pen.fillStyle = `rgba(${r}, ${g}, ${b}, ${Math.min(1, Math.abs(v)).toFixed(3)})`;
        pen.fillRect(x * size, y * size, size - (size > 8 ? 1 : 0), size - (size > 8 ? 1 : 0));
      }));
      pen.lineWidth = 1.5; pen.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue("--ink");
      for (const [x, y] of rings) pen.strokeRect(x * size + 0.75, y * size + 0.75, size - 2.5, size - 2.5);
    };
    const place = (event) => {
      const box = canvas.getBoundingClientRect();
      const x = Math.floor(((event.clientX - box.left) / box.width) * across), y = Math.floor(((event.clientY - box.top) / box.height) * height);
      return x >= 0 && y >= 0 && x < across && y < height ? [x, y] : null;
    };
    T.tip(canvas, (event) => { const at = place(event); return at ? says(...at, rows[at[1]][at[0]]) : ""; });
    if (pick) canvas.addEventListener("click", (event) => { const at = place(event); if (at) pick(...at); });
    T.repaint(canvas, paint);
    return el("div", { class: "map" }, canvas);
  };
  const painters = [];
  T.repaint = (node, paint) => { painters.push([new WeakRef(node), paint]); paint(); };
  T.repaintAll = () => painters.forEach(([node, paint]) => { if (node.deref()) paint(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => T.repaintAll());

  T.scale = (low, high, two) => el("div", { class: "scale" + (two ? " two" : "") }, low, el("i"), high);
  T.legend = (...items) => el("div", { class: "legend" }, items.map(([kind, text]) => el("span", {}, el("i", { class: "k-" + kind }), text)));

  /* horizontal bars around zero, or from zero where nothing is below it */
  T.bars = (items, { limit = 0, signed = false, pick = null } = {}) => {
    const top = limit || T.most(items.map((item) => item.value)) || 1;
    const box = el("div", { class: "bars" });
    for (const item of items) {
      const v = T.value(item.value), share = Number.isFinite(v) ? Math.min(1, Math.abs(v) / top) : 0;
      const style = { background: `rgb(var(${v < 0 ? "--less" : "--more"}))`, width: share * (signed ? 50 : 100) + "%" };
      if (signed) style.left = (v < 0 ? 50 - share * 50 : 50) + "%"; else style.left = "0";
      T.add(box, 
        el(pick ? "button" : "span", { class: "name", type: pick ? "button" : null, onclick: pick ? () => pick(item) : null, "aria-pressed": pick ? String(!!item.picked) : null }, item.name),
        el("span", { class: "track" }, signed && el("span", { class: "zero", style: { left: "50%" } }), el("span", { class: "bar", style })),
        el("span", { class: "num" }, item.says || T.num(item.value, signed)));
    }
    return box;
  };

  T.spark = (values, { width = 96, height = 22, bars = false, label = "" } = {}) => {
    const v = values.map((x) => { const n = T.value(x); return Number.isFinite(n) ? n : 0; }), top = T.most(v) || 1;
    const x = (i) => (v.length > 1 ? (i / (v.length - 1)) * (width - 4) + 2 : width / 2), y = (n) => height - 2 - (n / top) * (height - 4);
    const root = T.svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
    if (bars) v.forEach((n, i) => T.add(root, T.svg("rect", { class: "fill-more", x: (i * width) / v.length, width: Math.max(0.8, width / v.length - 0.6), y: y(n), height: Math.max(0.5, height - 2 - y(n)) })));
    else T.add(root, T.svg("path", { class: "more", "stroke-width": 1.5, d: v.map((n, i) => `${i ? "L" : "M"}${x(i).toFixed(1)} ${y(n).toFixed(1)}`).join("") }));
    return root;
  };

  /* CircuitsVis finds its element by id, and wants one that is in the page and stays its own */
  let made = 0;
  T.circuitsvis = (parent, name, props, title) => {
    const id = "circuitsvis-" + ++made;
    T.add(parent, el("div", { class: "sheet" }, title && el("h4", {}, title), el("div", { id })));
    CircuitsVis.render(id, CircuitsVis[name], props);
  };
  /* Its token views set innerHTML. A word joiner, which is not seen, keeps "<" from opening a tag
     and "&" from starting a character reference; as text it reads the same, unlike "&lt;". */
  T.inert = (text) => T.token(text).replace(/[<&]/g, "$&\u2060");

  T.block = (id) => JSON.parse(document.getElementById(id).textContent);
  T.show = (root, view) => {
    T.add(root, el("h2", {}, view.title));
    const body = root.appendChild(el("div", { class: "view view-" + view.kind }));
    const told = (text) => T.add(body, el("p", { class: "note" }, text));
    const draw = Object.hasOwn(T.draw, view.kind) ? T.draw[view.kind] : null;
    if (typeof draw !== "function") return told("Nothing draws this view: its script is not a JavaScript function. The browser's console says why.");
    try {
      const made = draw(body, view.data, T);
      if (made instanceof Node && !made.contains(body)) T.add(body, made);
    } catch (error) { console.error(error); told(`The script that draws this view stopped: ${error}`); }
  };

  /* images and elements that came as text (views/markup.py) */
  T.draw.svg = (root, data) => T.add(root, el("div", { class: "sheet" }, el("img", { class: "picture", src: "data:image/svg+xml;base64," + data.base64, alt: data.alt })));
  const built = (node) => (typeof node === "string" ? node : el(node[0], node[1], node[2].map(built)));
  T.draw.html = (root, data) => T.add(root, data.nodes.map(built));
  T.page = () => {
    T.show(document.getElementById("root"), T.block("view"));
    const root = document.getElementById("root");
    const tell = () => parent.postMessage({ tlSteerHeight: root.offsetHeight + 2 }, "*");
    if (parent !== window) { new ResizeObserver(tell).observe(root); tell(); }
  };
})();
