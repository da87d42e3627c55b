/* Notes: what a reader of the report thinks of a vector. What the bank says already are its marks (the page's block
   `notes` has both); a note is what differs from them. Notes are kept in the browser's storage, where there is one,
   until "Save copy" writes the page anew with the notes in that block. */
(() => {
  const T = TlSteer, el = T.el;
  const FLAGS = ["dangerous", "benign", "unclear"];
  const MOST = { label: 200, comment: 4000 };
  const NONE = { flag: "", label: "", comment: "" };
  // As the file has them: later the page has another title, and attributes of its own.
  const TITLE = document.querySelector("title").textContent;
  const SHELL = document.documentElement.cloneNode(false), ROOT = document.getElementById("root").cloneNode(false);
  const listeners = new Set(), shown = new Map();
  let held = null, waiting = 0, made = 0, button = null;

  /* What storage and pages hold may be anybody's: only notes come through, and no longer than they may be. */
  const isObject = (value) => typeof value === "object" && value !== null;
  const bounded = (value, most) => {
    if (typeof value !== "string") return "";
    return value.length <= most ? value : [...value.slice(0, 2 * most)].slice(0, most).join("");
  };
  const note = (given) => ({
    flag: FLAGS.includes(given.flag) ? given.flag : "",
    label: bounded(given.label, MOST.label),
    comment: bounded(given.comment, MOST.comment),
  });
  const checked = (given) => new Map(Object.entries(isObject(given) ? given : {})
    .filter(([number, value]) => /^(0|[1-9]\d{0,9})$/.test(number) && isObject(value))
    .map(([number, value]) => [Number(number), note(value)]));
  const same = (a, b) => a.flag === b.flag && a.label === b.label && a.comment === b.comment;
  const parsed = (text) => { try { return JSON.parse(text) || {}; } catch { return {}; } };
  const plain = (notes) => Object.fromEntries(notes); // whole numbers as keys come in their order

  /* A copy with other notes in it is another page: its drafts are its own. */
  const digest = (text) => {
    let sum = 2166136261;
    for (let i = 0; i < text.length; i++) sum = Math.imul(sum ^ text.charCodeAt(i), 16777619);
    return (sum >>> 0).toString(36) + "-" + text.length;
  };
  const opened = () => {
    const node = document.querySelector("body > script#notes"), text = node ? node.textContent : "{}", block = parsed(text);
    const notes = checked(block.notes), written = JSON.stringify(plain(notes));
    const key = `tl_steer notes ${bounded(block.bank, 64)} ${digest(text)} ${bounded(TITLE, 200)}`;
    const found = { node, block, marks: checked(block.marks), notes, written, key, saved: true, kept: true, refused: false };
    const draft = parsed(stored(key));
    if (!isObject(draft.notes)) return found;
    return { ...found, notes: checked(draft.notes), saved: draft.saved === true };
  };
  /* Another tab with the same page wrote. */
  const follow = (event) => {
    if (!held || event.key !== held.key || waiting) return;
    const draft = parsed(event.newValue), before = held.notes;
    if (!isObject(draft.notes)) return;
    Object.assign(held, { notes: checked(draft.notes), saved: draft.saved === true });
    new Set([...before.keys(), ...held.notes.keys()]).forEach(tell);
  };
  const stored = (key) => { try { return localStorage.getItem(key); } catch { return null; } };
  const state = () => {
    if (held) return held;
    held = opened();
    if (unsaved()) addEventListener("beforeunload", warn);
    return held;
  };
  const text = () => JSON.stringify(plain(state().notes));
  const unsaved = () => !state().saved && text() !== state().written;

  const get = (vector) => state().notes.get(vector) || state().marks.get(vector) || NONE;
  const set = (vector, changes) => {
    const now = note({ ...get(vector), ...changes });
    if (same(now, state().marks.get(vector) || NONE)) state().notes.delete(vector);
    else state().notes.set(vector, now);
    state().saved = false;
    addEventListener("beforeunload", warn);
    clearTimeout(waiting);
    waiting = setTimeout(keep, 300);
    tell(vector);
  };
  const settled = () => {
    Object.assign(state(), { saved: true, written: text() });
    removeEventListener("beforeunload", warn);
  };
  const warn = (event) => {
    keep();
    if (unsaved()) { event.preventDefault(); event.returnValue = ""; }
  };

  /* Into the browser's storage, and to a server where there is one. */
  const keep = () => {
    if (!waiting) return;
    clearTimeout(waiting);
    waiting = 0;
    store();
    send();
  };
  const store = () => {
    const { key, notes, saved } = state();
    try { localStorage.setItem(key, JSON.stringify({ notes: plain(notes), saved })); state().kept = true; }
    catch { state().kept = false; }
    restate();
  };
  const send = async () => {
    const sent = text();
    try {
      const taken = await T.notes.send(JSON.parse(sent));
      state().refused = false;
      if (taken === true && sent === text()) { settled(); store(); }
    } catch { state().refused = true; }
    restate();
  };
  const standing = () => {
    const { kept, refused } = state();
    if (refused) return "The server did not take the last note. Save a copy to keep it.";
    if (state().saved) return "";
    if (!kept) return "This browser keeps nothing. Save a copy before you leave.";
    return "Kept in this browser. Save a copy to pass your notes on.";
  };

  /* What shows a note follows it, in the page and out of it, and is forgotten when nobody else holds it. */
  const alive = (vector) => (shown.get(vector) || []).filter((reference) => reference.deref());
  const tell = (vector) => {
    for (const reference of alive(vector)) reference.deref().refresh();
    restate();
    listeners.forEach((listener) => listener(vector));
  };
  const restate = () => {
    const says = standing();
    for (const node of document.querySelectorAll(".notes-standing")) if (node.textContent !== says) node.textContent = says;
    if (button) name();
  };
  const shows = (node, vector, refresh) => {
    shown.set(vector, [...alive(vector), new WeakRef(node)]);
    node.refresh = refresh;
    refresh();
    return node;
  };

  /* what one writes in */
  const flags = (vector, id) => ["", ...FLAGS].map((flag) => el("label", { class: "notes-flag" },
    el("input", { type: "radio", name: id, value: flag, onchange: () => set(vector, { flag }) }), flag || "none"));
  const widget = (vector) => {
    const id = `notes-${++made}`;
    const label = el("input", { type: "text", id: id + "-label", maxlength: MOST.label, autocomplete: "off",
      placeholder: "In a few words", oninput: () => set(vector, { label: label.value }) });
    const comment = el("textarea", { id: id + "-comment", maxlength: MOST.comment, rows: 2,
      placeholder: "What you saw, and where", oninput: () => set(vector, { comment: comment.value }) });
    const radios = flags(vector, id);
    const node = el("section", { class: "card notes", "aria-label": `Notes on vector ${vector}` },
      el("fieldset", {}, el("legend", {}, "Flag"), radios),
      el("div", {}, el("label", { for: label.id }, "Label"), label),
      el("div", {}, el("label", { for: comment.id }, "Comment"), comment),
      el("p", { class: "note notes-standing", role: "status" }, standing()));
    return shows(node, vector, () => {
      const now = get(vector);
      for (const radio of node.querySelectorAll("input[type=radio]")) radio.checked = radio.value === now.flag;
      // Setting what is there already would move the cursor to the end.
      if (label.value !== now.label) label.value = now.label;
      if (comment.value !== now.comment) comment.value = now.comment;
    });
  };

  /* what the table shows */
  const named = (label) => (T.capped(label) === label ? el("b", {}, label) : T.tip(el("b", {}, T.capped(label)), label));
  const pen = (comment) => el("span", { class: "notes-said", role: "img", "aria-label": "Comment: " + comment }, "✎");
  const badge = (vector) => {
    const node = el("span", { class: "notes-badge" });
    return shows(node, vector, () => {
      const { flag, label, comment } = get(vector);
      T.put(node,
        !!flag && [el("span", { class: "notes-mark " + flag }, flag), " "],
        !!label && [named(label), " "],
        !!comment && T.tip(pen(comment), comment));
    });
  };

  /* The page as it came, with the notes of now: what was drawn, and what the browser or its extensions put in, stays
     behind. In parts, since it may be long. */
  const escaped = (words) => words.replace(/[<>&\u007f-\uffff]/g, (c) => "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0"));
  const ENTITIES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#x27;" };
  const titled = (words) => words.replace(/[&<>"']/g, (c) => ENTITIES[c]);
  const opening = (node) => { const whole = node.cloneNode(false).outerHTML; return whole.slice(0, whole.lastIndexOf("</")); };
  const blank = (node) => node.nodeType === Node.TEXT_NODE && !node.data.trim();
  const noted = ({ node, block, notes }) =>
    opening(node) + escaped(JSON.stringify({ ...block, notes: plain(notes) })) + "<\/script>"; // the end of that one
  const head = (node) => {
    if (blank(node)) return node.data;
    if (node.nodeName === "TITLE") return `<title>${titled(TITLE)}</title>`;
    return node.nodeName === "META" || (node.nodeName === "STYLE" && !node.attributes.length) ? node.outerHTML : "";
  };
  const body = (node) => {
    if (blank(node)) return node.data;
    if (node.id === "root") return ROOT.outerHTML;
    if (node === state().node) return noted(state());
    return node.nodeName === "SCRIPT" || node.nodeName === "NOSCRIPT" ? node.outerHTML : "";
  };
  const page = () => {
    const within = Array.from(document.body.childNodes, body);
    while (within.length && !within[within.length - 1].trim()) within.pop(); // a parser puts what is behind the body into it
    const above = Array.from(document.head.childNodes, head);
    return ["<!doctype html>\n", opening(SHELL), "\n<head>", ...above, "</head>\n<body>", ...within, "\n</body>\n</html>\n"];
  };
  const decoded = (coded) => { try { return decodeURIComponent(coded); } catch { return coded; } };
  const fileName = () => {
    // A server's address may hold a secret, which is no name for a file.
    const last = location.protocol === "file:" ? decoded(location.pathname.split("/").pop()) : "";
    const own = last.replace(/\.html?$/i, "").replace(/(-notes)?( \(\d+\))?$/, "").replace(/[^\p{L}\p{N} ._-]/gu, "_");
    return (own.slice(0, 80) || "report") + "-notes.html";
  };
  const save = () => {
    // The end of a long page may still be on its way.
    if (document.readyState === "loading") { addEventListener("DOMContentLoaded", save, { once: true }); return; }
    const address = URL.createObjectURL(new Blob(page(), { type: "text/html" }));
    el("a", { href: address, download: fileName() }).click();
    setTimeout(() => URL.revokeObjectURL(address), 60000);
    settled();
    store();
  };
  const name = () => {
    const count = state().notes.size;
    button.textContent = count ? `Save copy · ${count} note${count === 1 ? "" : "s"}` : "Save copy";
    button.classList.toggle("unsaved", !state().saved);
    button.hidden = !state().node; // nowhere to write them
  };

  T.notes = {
    get: (vector) => ({ ...get(Number(vector)) }),
    count: () => state().notes.size,
    widget: (vector) => widget(Number(vector)),
    badge: (vector) => badge(Number(vector)),
    /* The one button; it stands where it was put last. */
    get save() {
      const made = () => el("button", { type: "button", class: "notes-save no-print", onclick: save });
      button = button || T.tip(made(), "Downloads this page with the notes in it");
      name();
      return button;
    },
    /* `listener(vector)` at every change; what comes back ends that. */
    onchange: (listener) => { listeners.add(listener); return () => listeners.delete(listener); },
    /* What a live page puts its own in the place of; true says that the notes are kept there. */
    send: async (notes) => {},
  };
  addEventListener("pagehide", keep);
  addEventListener("storage", follow);
})();
