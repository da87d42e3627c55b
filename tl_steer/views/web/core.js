"use strict";
/* What every picture is made of. Text goes into text nodes and attributes only: nothing here writes
   markup, so nothing that a model said can become any. */
const TlSteer = { draw: { ...globalThis.TlSteerOwn } };
(() => {
  const T = TlSteer;
  const SVG = "http://www.w3.org/2000/svg";

  /* Marks stacked on one letter would be drawn over the lines around it. Scripts that stack their own
     get more of them than the marks that go with any letter. */
  const calm = (text) => text.replace(/(\p{Script=Inherited}{3})\p{Script=Inherited}+/gu, "$1…").replace(/(\p{M}{8})\p{M}+/gu, "$1…");
  const fill = (node, attributes, children) => {
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name === "text") node.textContent = calm(String(value));
      else if (name === "style") Object.assign(node.style, value);
      else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else node.setAttribute(name, value === true ? "" : value);
    }
    for (const child of children.flat(Infinity)) {
      if (child !== null && child !== undefined && child !== false)
        node.append(child instanceof Node ? child : document.createTextNode(calm(String(child))));
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
    return x > 0 && x < 0.05 ? "<0.1\u00a0%" : x >= 99.95 && x < 100 ? ">99.9\u00a0%" : x.toFixed(x >= 10 ? 0 : 1) + "\u00a0%";
  };
  T.most = (values) => values.reduce((m, v) => { const x = Math.abs(T.value(v)); return Number.isFinite(x) && x > m ? x : m; }, 0);
  /* Whatever is not a text to be read is bounded, as in Python (files/text.py); the room above is for what that adds. */
  T.capped = (text, most = 64) => (text.length <= most + 16 ? text
    : `${Array.from(text.slice(0, 2 * most)).slice(0, most).join("")}…(${Array.from(text).length.toLocaleString("en")})`);
  T.token = (text) => (text === "" ? "∅" : T.capped(text).replace(/\n/g, "⏎").replace(/\t/g, "⇥"));
  T.word = (text) => el("span", { class: "word" }, T.token(text));
  T.short = (text) => (text.length > 28 ? text.slice(0, 27) + "…" : text);
  T.quoted = (text) => "“" + T.token(text) + "”";

  /* one tooltip for the page; what it says is also an aria-label where it can be focused */
  let tip = null;
  T.tip = (node, text) => {
    const show = (event) => {
      tip = tip || document.body.appendChild(el("div", { class: "tip", role: "tooltip" }));
      const says = typeof text === "function" ? text(event) : text;
      if (!says) return hide();
      tip.textContent = calm(T.capped(says, 2000));
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

  /* What is picked is in the address, so that a link shows the same: #v12/attention?t=37&h=16.6.
     A frame in a notebook has no address; there it is only remembered. */
  let remembered = null;
  const query = () => remembered || new URLSearchParams(location.hash.split("?")[1] || "");
  T.at = {
    path: () => decodeURIComponent(location.hash.slice(1).split("?")[0]),
    get: (name) => query().get(name),
    number: (name) => (/^-?\d+(\.\d+)?$/.test(query().get(name) || "") ? Number(query().get(name)) : null),
    /* Nothing is drawn anew; null takes a name away. */
    set: (changes) => {
      const now = query();
      for (const [name, value] of Object.entries(changes)) {
        if (value === null || value === undefined || value === "") now.delete(name); else now.set(name, value);
      }
      const said = now.toString().replace(/%2C/g, ",");
      try { history.replaceState(null, "", "#" + location.hash.slice(1).split("?")[0] + (said ? "?" + said : "")); }
      catch { remembered = now; }
    },
  };

  /* Tabs of a vector's page, by the kind of view that draws them, and of the whole report. Files of
     ours name theirs: T.vectorTabs.push({ kind, name, title }); T.mainTabs.push({ name, title, when, draw }). */
  T.vectorTabs = [];
  T.mainTabs = [];

  /* Shares in 0..1 that came as bytes (views/page.py: shares), as nested lists. */
  T.shares = (packed) => {
    const bytes = Uint8Array.from(atob(packed.u8), (c) => c.charCodeAt(0));
    const level = (shape, from) => {
      if (shape.length === 1) return Array.from(bytes.subarray(from, from + shape[0]), (b) => b / 255);
      const size = shape.slice(1).reduce((a, b) => a * b, 1);
      return Array.from({ length: shape[0] }, (_, i) => level(shape.slice(1), from + i * size));
    };
    return level(packed.shape, 0);
  };

  /* Data of the page (views/blocks.py): `block` is there at once; `read` inflates a packed one, which
     may lie behind this script, and is null where there is none. */
  T.block = (id) => JSON.parse(document.getElementById(id).textContent);
  T.parsed = () => document.readyState !== "loading" ? null
    : new Promise((done) => addEventListener("DOMContentLoaded", done, { once: true }));
  T.inflated = (text) => {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).text();
  };
  let words = null;
  T.read = async (id) => {
    await T.parsed();
    const block = document.getElementById(id);
    if (!block) return null;
    words = words || T.inflated(document.getElementById("words").textContent).then(JSON.parse);
    const table = await words, text = await T.inflated(block.textContent);
    return JSON.parse(text, (_, v) => (typeof v === "string" && v[0] === "~" ? table[parseInt(v.slice(1), 36)] : v));
  };
  T.has = (id) => document.getElementById(id) !== null;

  T.show = (root, view) => {
    T.add(root, el("h2", {}, T.capped(view.title, 160)));
    return T.drawn(root, view.kind, view.data);
  };
  T.drawn = (root, kind, data) => {
    const body = root.appendChild(el("div", { class: "view view-" + kind }));
    const told = (text) => T.add(body, el("p", { class: "note" }, text));
    const draw = Object.hasOwn(T.draw, kind) ? T.draw[kind] : null;
    if (typeof draw !== "function") return told("Nothing draws this view: its script is not a JavaScript function. The browser's console says why.");
    try {
      const made = draw(body, data, T);
      if (made instanceof Node && !made.contains(body)) T.add(body, made);
    } catch (error) { console.error(error); told(`The script that draws this view stopped: ${error}`); }
    return body;
  };

  /* images and elements that came as text (views/markup.py) */
  T.draw.svg = (root, data) => T.add(root, el("div", { class: "sheet" }, el("img", { class: "picture", src: "data:image/svg+xml;base64," + data.base64, alt: data.alt })));
  const built = (node) => (typeof node === "string" ? node : el(node[0], node[1], node[2].map(built)));
  T.draw.html = (root, data) => T.add(root, data.nodes.map(built));
  T.page = () => {
    const root = document.getElementById("root"), view = T.block("view");
    framed(root);
    T.add(root, el("h1", { class: "of-view" }, T.capped(view.title, 160)));
    T.drawn(root, view.kind, view.data);
  };

  /* In a notebook's frame (frame.js). A frame out of sight is laid out when it is asked for its size, and
     otherwise neither drawn nor observed, so changes of its nodes measure it too. */
  const framed = (root) => {
    if (parent === window) return;
    const PRINTED = "620px";  // about what a notebook's cell has on a page of A4
    const tall = () => Math.ceil(root.getBoundingClientRect().height) + 2;
    const tell = () => parent.postMessage({ tlSteerHeight: tall() }, "*");
    const measure = () => {
      tell();
      root.style.width = PRINTED;
      root.classList.add("measured");
      parent.postMessage({ tlSteerPrinted: 1.1 * tall() + 60 }, "*");  // with what a printer's own styles add
      root.style.width = "";
      root.classList.remove("measured");
    };
    addEventListener("message", ({ source, data }) => {
      if (source !== parent || typeof data !== "object" || data === null || !("tlSteerDark" in data)) return;
      T.theme(data.tlSteerDark === true ? "dark" : data.tlSteerDark === false ? "light" : null);
    });
    parent.postMessage({ tlSteerAsks: "dark" }, "*");
    let waits = 0;
    const soon = (records) => {
      if (records.every((one) => one.target === root && one.type === "attributes")) return;  // measure did that
      clearTimeout(waits);
      waits = setTimeout(measure, 60);
    };
    new ResizeObserver(tell).observe(root);
    new MutationObserver(soon).observe(root, { childList: true, subtree: true, attributeFilter: ["style", "class", "height", "hidden", "open"] });
  };
  /* "light", "dark", or null for what the system has */
  T.theme = (name) => {
    const set = document.documentElement.dataset;
    if ((set.theme || null) === name) return;
    if (name) set.theme = name; else delete set.theme;
  };
})();
