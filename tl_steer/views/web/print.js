/* Printing: on white, with the rows and tabs that a window leaves out. */
(() => {
  const T = TlSteer, el = T.el;
  const undo = [];

  /* What is done to a part of the page before it is printed, at once, and undone behind. */
  T.whilePrinting = (node, before, after) => {
    // Found in the page when it is printed, and so forgotten with it.
    node.dataset.prints = "";
    node.printing = { before, after };
  };
  addEventListener("beforeprint", () => {
    const theme = document.documentElement.dataset.theme || null;
    T.theme("light");
    undo.push(() => T.theme(theme));
    for (const { printing } of document.querySelectorAll("[data-prints]")) { printing.before(); undo.push(printing.after); }
  });
  addEventListener("afterprint", () => { while (undo.length) undo.pop()(); });

  // Drawn by React, a little after they were asked for: too late for a printer that does not wait.
  const LATE = new Set(["circuitsvis"]);

  /* A button that prints a vector's page with all its tabs. Printing from the browser's menu has them too,
     but for those that are drawn late. `tabs` are those that are not open. */
  T.printAll = (root, vector, tabs) => {
    if (!tabs.length) return null;
    const place = el("div");
    let read = null, drawn = false;
    const section = (title) => el("section", { class: "printed", "aria-label": title }, el("h2", {}, title));
    const clear = () => { T.put(place); drawn = false; };
    const keep = () => { read = read || Promise.all(tabs.map(({ kind }) => (LATE.has(kind) ? null : T.drawable(vector, kind)))).then((found) => { read = found; }); };
    const atOnce = () => {
      if (drawn || !Array.isArray(read)) return;
      tabs.forEach(({ title }, i) => {
        const part = place.appendChild(section(title));
        if (read[i]) read[i](part); else T.add(part, el("p", { class: "note" }, "Printed by the page's own button, Print all tabs."));
      });
    };
    const all = async () => {
      clear();
      for (const { kind, title } of tabs) await T.drawPanel(place.appendChild(section(title)), vector, kind);
      drawn = true;
      while (place.querySelector("[aria-busy=true]")) await new Promise(requestAnimationFrame);
      await new Promise((done) => setTimeout(() => requestAnimationFrame(done), 600));
      print();
    };
    T.add(root, place);
    T.whilePrinting(place, atOnce, clear);
    (globalThis.requestIdleCallback || setTimeout)(keep);
    return el("button", { type: "button", class: "print-all", onclick: all }, "Print all tabs");
  };
})();
