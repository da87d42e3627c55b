/* The prompt once, as tokens: hover or focus tints where one looks (filled) and who looks at it
   (underlined); a click keeps it. */
(() => {
  const T = TlSteer, el = T.el;

  const legend = ({ top, two }, whole) => [
    T.scale(two ? T.num(-top) : "0", T.num(top, two), two, T.UNDER_TEXT),
    el("span", {}, "filled: where the framed token looks"), whole && el("span", {}, "underlined: who looks at it")];

  const paint = (nodes, { out, into, top }, t, whole) => nodes.forEach((node, i) => {
    const ground = T.painted((out[i] ?? 0) / top, T.UNDER_TEXT);
    Object.assign(node.style, { backgroundColor: "", backgroundImage: "", ...ground.style });
    node.className = "token " + ground.class;
    node.style.boxShadow = i !== t && into[i] ? `inset 0 -4px ${T.tint(into[i] / top)}` : "";
    node.classList.toggle("here", whole ? i === t : i === nodes.length - 1);
  });

  const buttons = (data, does) => data.tokens.map((text, i) => el("span", {
    class: "token", role: "button", "aria-label": `token ${data.places[i]}: ${T.token(T.short(text))}`,
    onclick: (event) => { event.target.focus(); does.keep(i); }, onmouseenter: () => does.tint(i), onfocus: () => does.tint(i),
  }, T.token(T.short(text))));

  /* kept: the token that is held, or -1; pick(t) as another one is; leave() on Escape with none held;
     over(t) as one is tinted. Gives { node, show(pattern, run), keep(t), tint(t) }; tint(null) returns
     to the token that is held, or to the last. */
  T.looking = (data, { kept, pick, leave, over }) => {
    const last = data.tokens.length - 1, key = el("div", { class: "grid-legend" });
    const told = el("p", { class: "note", "aria-live": "polite" });
    let pattern = null, run = T.RUNS[2];
    const resting = () => (kept >= 0 ? kept : last);
    const tint = (asked) => {
      const t = asked === null ? resting() : asked;
      if (!pattern) return;
      const looks = T.looks(pattern, data, run, t);
      paint(nodes, looks, t, pattern.whole);
      T.put(key, legend(looks, pattern.whole));
      told.textContent = T.looksSaid(pattern, data, run, t);
      over(t);
    };
    const mark = () => nodes.forEach((node, i) => {
      node.setAttribute("aria-pressed", String(i === kept));
      node.tabIndex = i === resting() ? 0 : -1;
    });
    const keep = (t) => { kept = t; mark(); tint(null); pick(t); };
    const nodes = buttons(data, { keep: (i) => keep(i === kept ? -1 : i), tint });
    const box = el("div", { class: "tokens", role: "toolbar", "aria-label": "Tokens of the prompt: where they look" },
      nodes.map((node, i) => [node, data.tokens[i].includes("\n") && el("br")]));
    for (const kind of ["mouseleave", "focusout"]) box.addEventListener(kind, () => tint(null));
    box.addEventListener("keydown", (event) => {
      const at = nodes.indexOf(document.activeElement);
      const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: last }[event.key];
      if (at < 0) return;
      if (event.key === "Enter" || event.key === " ") nodes[at].click();
      else if (event.key === "Escape") { if (kept >= 0) keep(-1); else leave(); }
      else if (to === undefined) return;
      else if (nodes[to]) { nodes[at].tabIndex = -1; nodes[to].tabIndex = 0; nodes[to].focus(); }
      event.preventDefault();
      event.stopPropagation();
    });
    mark();
    return { node: el("div", {}, box, key, told), keep, tint, show: (next, of) => { pattern = next; run = of; tint(null); } };
  };
})();
