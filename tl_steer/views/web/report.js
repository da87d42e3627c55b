/* The report: a table, a page for every vector, and an address for each (#v12, #v12/attention?p=1). */
(() => {
  const T = TlSteer, el = T.el;
  const TITLES = { map: "Map", dose: "Dose", selection: "Selection", sweep: "Sweep", alerts: "Alerts", monitor: "Monitor", scan: "Scan" };
  const KEYS = [["/", "search the vectors"], ["j k", "next and previous row"], ["Enter", "open a vector"], ["← →", "next and previous vector"], ["Esc", "back to all vectors"], ["?", "this list"]];
  let data, place, list = "";

  T.open = (number) => { T.leaveList(number); location.hash = "v" + number; };
  T.backToList = () => el("a", { href: "#" + list }, "← all vectors");

  const provenance = (root) => T.add(root, el("h2", {}, "How it was made"), T.figure("Provenance", el("table", {}, el("tbody", {}, data.provenance.map(([name, value]) =>
    el("tr", {}, el("th", { scope: "row", style: { width: "190px" } }, name), el("td", { class: "said" }, value))))), () => [["name", "value"], ...data.provenance]));

  const tab = (path) => T.mainTabs.find((t) => t.name === path && (!t.when || t.when()));
  const section = (root, name) => {
    const body = root.appendChild(el("div"));
    T.read("section-" + name).then((view) => { if (view && body.isConnected) T.show(body, view); });
  };

  const route = (moved) => {
    const path = T.at.path(), match = /^v(\d+)(?:\/(\w+))?$/.exec(path), known = data.sections.some((s) => s.name === path);
    // A place of its own for each: what is still being read for the one before ends nowhere.
    const box = el("div");
    T.put(place, box);
    document.querySelectorAll("nav.main a").forEach((a) => { if ((a.hash || "#").split("?")[0] === "#" + (match ? "" : path)) a.setAttribute("aria-current", "page"); else a.removeAttribute("aria-current"); });
    document.getElementById("root").classList.toggle("inner", !!match);
    title.replaceWith(title = el(match ? "p" : "h1", { class: "title" }, T.capped(data.title, 160)));
    if (match && T.compare && T.at.get("vs")) T.compare(box, data, Number(match[1]), T.at.get("vs"));
    else if (match) T.vector(box, data, Number(match[1]), match[2]);
    else if (known) section(box, path);
    else if (path === "provenance") provenance(box);
    else if (tab(path)) tab(path).draw(box);
    else T.list(box, data);
    document.title = match ? `Vector ${match[1]} · ${data.title}` : data.title;
    const head = match && place.querySelector("h1");
    if (moved && head) head.focus({ preventScroll: true });
  };
  let title = null;

  const move = (by) => {
    const order = T.order(), row = document.activeElement && document.activeElement.closest("tr[data-vector]");
    const at = row ? order.indexOf(Number(row.dataset.vector)) : -1;
    if (order.length) T.focusRow(order[Math.max(0, Math.min(order.length - 1, at + by))]);
  };
  const help = () => {
    const box = el("dialog", { "aria-label": "Keys" }, el("h2", {}, "Keys"), el("table", { class: "plain" }, KEYS.map(([key, does]) => el("tr", {}, el("td", {}, el("kbd", {}, key)), el("td", {}, does)))), el("form", { method: "dialog" }, el("button", {}, "Close")));
    document.body.append(box);
    box.addEventListener("close", () => box.remove());
    box.showModal();
  };
  const keys = (event) => {
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || typing || document.querySelector("dialog[open]")) { if (typing && event.key === "Escape") event.target.blur(); return; }
    const number = T.opened(), order = T.order();
    if (event.key === "?") help();
    else if (event.key === "/") { const box = document.querySelector(".filter"); if (box) { event.preventDefault(); box.focus(); } }
    else if (event.key === "Escape" && T.at.path()) location.hash = list;
    else if (number === null && (event.key === "j" || event.key === "k")) move(event.key === "j" ? 1 : -1);
    else if (number !== null && (event.key === "ArrowRight" || event.key === "ArrowLeft")) {
      const to = order[(order.indexOf(number) + (event.key === "ArrowRight" ? 1 : -1) + order.length) % order.length];
      const tabbed = /^v\d+(\/\w+)?/.exec(T.at.path());
      if (to !== undefined) location.hash = `v${to}${(tabbed && tabbed[1]) || ""}${T.at.get("p") ? "?p=" + T.at.get("p") : ""}`;
    }
  };

  const theme = () => el("button", { type: "button", class: "no-print", "aria-label": "Light or dark", onclick: () => {
    const set = document.documentElement.dataset;
    const dark = set.theme ? set.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    set.theme = dark ? "light" : "dark";
  } }, "◐");

  T.report = () => {
    data = T.block("overview");
    T.order(data.rows);
    const link = (name, text) => el("a", { href: "#" + name }, text), root = document.getElementById("root");
    place = el("div", { id: "content", tabindex: "-1" });
    title = el("h1", { class: "title" }, T.capped(data.title, 160));
    T.add(root, el("a", { class: "skip no-print", href: "#", onclick: (event) => { event.preventDefault(); place.focus(); } }, "Skip to the content"));
    T.add(root, el("header", { class: "top" }, el("div", {}, el("p", { class: "eyebrow" }, "tl_steer report"), title), el("div", { class: "row" }, T.notes.save, theme())),
      T.facts(data.facts),
      el("nav", { class: "tabs main", "aria-label": "Report" }, link("", "Vectors"), data.sections.map((s) => link(s.name, TITLES[s.name] || T.short(s.title))), T.mainTabs.filter((t) => !t.when || t.when()).map((t) => link(t.name, t.title)), link("provenance", "Provenance")),
      place);
    addEventListener("hashchange", (event) => {
      const before = new URL(event.oldURL).hash.slice(1), opened = T.opened();
      if (!/^v\d/.test(before)) { if (opened !== null) T.leaveList(opened); list = before.startsWith("?") || before === "" ? before : list; }
      if (T.at.path()) scrollTo(0, 0);
      route(true);
    });
    addEventListener("keydown", keys);
    route(false);
    // Pages of vectors lie behind this script: which tabs there are is known when they have been read.
    if (T.at.path()) addEventListener("DOMContentLoaded", () => route(false));
    performance.mark("tl-steer-ready");
  };
})();
