/* The residual stream: how the response grows, and where it was put in. */
(() => {
  const T = TlSteer, el = T.el;

  T.draw.residual_response = (root, data) => {
    let relative = true, reading = data.read_at.length - 1;
    const body = el("div", { class: "wide" }), bar = el("div", { class: "row" });
    T.add(root, el("p", { class: "note" }, "Each row is the residual stream leaving a block; each column a token. Colour: the norm of what steering changed there. The lens lists the tokens whose logit rises most if the stream is read out at that depth; early layers often read as noise."), bar, body);
    const toggle = (text, on, act) => el("button", { type: "button", "aria-pressed": String(on), onclick: act }, text);
    const show = () => {
      T.put(bar, 
        toggle("share of the stream's norm", relative, () => { relative = true; show(); }), toggle("norm", !relative, () => { relative = false; show(); }));
      if (data.promoted[0] && data.promoted[0][0] && data.promoted[0][0].length) {
        const box = el("select", { "aria-label": "Token at which the lens is read" }, data.read_at.map((at, r) => el("option", { value: r, selected: r === reading }, `${at}: ${T.quoted(data.tokens[at])}`)));
        box.addEventListener("change", () => { reading = Number(box.value); show(); });
        T.add(bar, el("span", { class: "note" }, "lens behind token"), box);
      }
      const values = relative ? data.share : data.response, top = T.most(values.flat()) || 1;
      const at = data.read_at[reading], column = data.bins.findIndex(([a, b]) => a <= at && at <= b);
      const rows = values.map((row, s) => {
        const cells = el("div", { class: "cells" }, row.map((v, i) => el("i", { style: { background: T.tint(T.value(v) / top, 1) } })));
        T.tip(cells, (event) => {
          const box = cells.getBoundingClientRect(), i = Math.min(row.length - 1, Math.floor(((event.clientX - box.left) / box.width) * row.length));
          if (!(i >= 0)) return "";
          const [a, b] = data.bins[i];
          return `${s ? "after block " + (s - 1) : "before block 0"}, ${a === b ? `token ${a} ${T.quoted(data.tokens[a])}` : `tokens ${a} to ${b}`}: ${T.num(row[i])}${T.beside(band && band[s], i)}`;
        });
        const words = (list, limit) => (list || []).slice(0, limit).map(([text]) => [T.word(text), " "]);
        const moved = T.value(data.response[s][column]) > 0;
        const up = moved ? (data.promoted[s] || [])[reading] : null, down = (data.suppressed[s] || [])[reading];
        const line = el("td", { class: "hide-small" }, words(up, 4));
        if (up && up.length) T.tip(line, `rise: ${up.map(([w, x]) => `${T.quoted(w)} ${T.num(x, true)}`).join(", ")}\nfall: ${down.map(([w, x]) => `${T.quoted(w)} ${T.num(x, true)}`).join(", ")}`);
        return el("tr", { class: s - 1 === data.source_layer ? "source" : null },
          el("td", { class: "num" }, s ? s - 1 : "in"), el("td", { style: { width: "52%" } }, cells), el("td", { class: "num" }, T.num(row[column])), line);
      });
      T.put(body, 
        el("table", { class: "stream" }, el("thead", {}, el("tr", {}, ["block", "tokens", `at ${at}`, "the lens reads"].map((t, i) => el("th", { class: i === 3 ? "hide-small" : i === 0 || i === 2 ? "num" : null }, t)))), el("tbody", {}, rows)),
        T.scale("0", T.num(top) + (relative ? " of the norm" : "")));
    };
    show();
  };

  T.draw.steered_tokens = (root, data) => {
    const top = T.most(data.share) || 1, count = data.steered.filter(Boolean).length;
    T.add(root, 
      el("p", { class: "note" }, `Added at ${count} of ${data.tokens.length} tokens (underlined), at ${data.source}. Colour: the norm of what was added, over the norm of the activation it met.`),
      T.tokens(data.tokens, { share: (i) => T.value(data.share[i]) / top, mark: (i) => (data.steered[i] ? "steered" : ""), says: (i) => (data.steered[i] ? `norm ${T.num(data.added[i])}, ${T.num(data.share[i])} of the activation's` : "not steered") }),
      T.scale("0", T.num(top), false, T.UNDER_TEXT));
  };
})();
