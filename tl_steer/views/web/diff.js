/* What one text has that another lacks, word by word. */
(() => {
  const T = TlSteer, el = T.el;
  const MOST = 1500; // words of each that are compared; behind them all counts as new

  /* [text, kind]: "same" in both, "new" in the second alone, "gone" in the first alone. */
  T.diff = (before, after) => {
    const a = before.match(/\s+|\S+/g) || [], b = after.match(/\s+|\S+/g) || [];
    const n = Math.min(a.length, MOST), m = Math.min(b.length, MOST);
    const common = Array.from({ length: n + 1 }, () => new Uint16Array(m + 1));
    for (let i = n - 1; i >= 0; i--) for (let j = m - 1; j >= 0; j--)
      common[i][j] = a[i] === b[j] ? common[i + 1][j + 1] + 1 : Math.max(common[i + 1][j], common[i][j + 1]);
    const pieces = [];
    const put = (text, kind) => {
      const last = pieces[pieces.length - 1];
      if (last && last[1] === kind) last[0] += text; else pieces.push([text, kind]);
    };
    let i = 0, j = 0;
    while (i < n || j < m) {
      if (i < n && j < m && a[i] === b[j]) { put(a[i], "same"); i++; j++; }
      else if (j < m && (i === n || common[i][j + 1] > common[i + 1][j])) put(b[j++], "new");
      else put(a[i++], "gone");
    }
    if (n < a.length) put(a.slice(n).join(""), "gone");
    if (m < b.length) put(b.slice(m).join(""), "new");
    return joined(pieces);
  };
  /* Space between two new words is part of what is new. */
  const joined = (pieces) => {
    const out = [];
    pieces.forEach(([text, kind], i) => {
      const between = kind === "same" && !text.trim() && (pieces[i + 1] || [])[1] === "new" && out.length && out[out.length - 1][1] === "new";
      const as = between ? "new" : kind, last = out[out.length - 1];
      if (last && last[1] === as) last[0] += text; else out.push([text, as]);
    });
    return out;
  };

  /* The second text with its new words marked, and with those that are gone struck out if asked. */
  T.said = (before, after, { gone = false } = {}) => el("span", { class: "said" }, T.diff(before, after).map(([text, kind]) =>
    kind === "same" ? text : kind === "new" ? (text.trim() ? el("mark", {}, text) : text) : gone && text.trim() ? el("del", {}, text) : null));
})();
