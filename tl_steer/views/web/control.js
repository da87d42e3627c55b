/* Random vectors behind a number: what they do is what any vector of that length does. */
(() => {
  const T = TlSteer, el = T.el;

  /* "random 0.2 to 1.1"; nothing where none was measured */
  T.between = (low, high) =>
    Number.isNaN(T.value(low)) || Number.isNaN(T.value(high)) ? "" : `random ${T.num(low)} to ${T.num(high)}`;

  /* whether a number is above the band */
  T.above = (value, band, i) => !!band && T.value(value) > T.value(band[1][i]);

  /* what a band is of: `control` as views/control.py tells it */
  T.bandOf = (control) =>
    `${control.whole ? "lowest to highest" : "5 to 95 %"} of ${control.vectors} random vector${control.vectors === 1 ? "" : "s"}`;
  T.controlled = (control) =>
    control && el("p", { class: "note" }, `Random: ${T.bandOf(control)} of the same length, on the same prompt.`);
})();
