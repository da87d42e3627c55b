/* Random vectors behind a number: what they do is what any vector of that length does. */
(() => {
  const T = TlSteer, el = T.el;

  /* "random 0.2 to 1.1"; nothing where none was measured */
  T.between = (low, high) =>
    Number.isNaN(T.value(low)) || Number.isNaN(T.value(high)) ? "" : `random ${T.num(low)} to ${T.num(high)}`;

  /* of a list of numbers, one: what random vectors give there, with a comma before it */
  T.beside = (band, i) => {
    const said = band ? T.between(band[0][i], band[1][i]) : "";
    return said && ", " + said;
  };
  T.above = (value, band, i) => !!band && T.value(value) > T.value(band[1][i]);

  /* Bars (T.bars) with random vectors' bands in grey behind those that have one: item.band is [low, high]. */
  T.banded = (items, { signed = false, ...more } = {}) => {
    const top = more.limit || T.most(items.map((item) => item.value)) || 1;
    const box = T.bars(items, { signed, ...more }), tracks = box.querySelectorAll(".track");
    const at = (v) => (signed ? 50 + 50 * Math.max(-1, Math.min(1, v / top)) : 100 * Math.max(0, Math.min(1, v / top)));
    items.forEach((item, i) => {
      const [low, high] = (item.band || [null, null]).map(T.value), says = T.between(low, high);
      if (!says) return;
      tracks[i].prepend(el("span", { class: "band", style: { left: at(low) + "%", width: at(high) - at(low) + "%" } }));
      T.tip(tracks[i], `${item.name}: ${T.num(item.value, signed)}, ${says}`);
    });
    return box;
  };

  /* what a band is of: `control` as views/control.py tells it */
  T.bandOf = (control) =>
    `${control.whole ? "lowest to highest" : "5 to 95 %"} of ${control.vectors} random vector${control.vectors === 1 ? "" : "s"}`;
  T.controlled = (control, more = "") =>
    control && el("p", { class: "note" }, `Random: ${T.bandOf(control)}, on the same prompt. ${more}`);
})();
