/* What one head looks at: patterns as they come from Python, as rows, as pictures and in words. */
(() => {
  const T = TlSteer;
  T.RUNS = ["unsteered", "steered", "difference"];

  const numbers = (packed) => Uint8Array.from(atob(packed.u8), (c) => c.charCodeAt(0));
  const less = (after, before) =>
    after.map((row, y) => row.map((value, x) => (value === undefined ? value : value - before[y][x])));
  const runs = (unsteered, steered, whole) => ({ unsteered, steered, difference: less(steered, unsteered), whole });

  /* A causal pattern came as its lower triangle, row by row: what lies ahead is not there. */
  const rowsOf = (packed, n, gone) => {
    const list = T.shares(packed), triangle = packed.shape.length === 1;
    const value = (y, x) => (!triangle ? list[y][x] : x <= y ? list[(y * (y + 1)) / 2 + x] : undefined);
    const lost = (y, x) => gone.includes(y) && value(y, x) !== undefined;
    return Array.from({ length: n }, (_, y) => Array.from({ length: n }, (_, x) => (lost(y, x) ? NaN : value(y, x))));
  };
  const wholePattern = (kept, n) => {
    const gone = (run) => kept.gone.filter(([r]) => r === run).map(([, y]) => y);
    return runs(rowsOf(kept.unsteered, n, gone(0)), rowsOf(kept.steered, n, gone(1)), true);
  };
  /* The last token's row of every head; steered ones as differences modulo 256. */
  const lastRows = (last, across, n) => {
    const base = numbers(last.unsteered), moved = numbers(last.moved), gone = new Set(last.gone.map((at) => at.join(".")));
    return (layer, head) => {
      const from = (layer * across + head) * n;
      const lost = (run) => gone.has(`${layer}.${head}.${run}`);
      const row = (run, byte) => [Array.from({ length: n }, (_, i) => (lost(run) ? NaN : byte(from + i) / 255))];
      return runs(row(0, (i) => base[i]), row(1, (i) => (base[i] + moved[i]) & 255), false);
    };
  };

  /* (layer, head) => { unsteered, steered, difference: rows[destination][source], whole }, or null
     where nothing was kept; of what is not whole there is one row, the last token's. */
  T.patterns = (data) => {
    const n = data.tokens.length, kept = new Map(data.kept.map((k) => [k.head.join("."), k]));
    const row = data.last ? lastRows(data.last, data.change[0].length, n) : () => null;
    return (layer, head) => {
      const whole = kept.get(`${layer}.${head}`);
      return whole ? wholePattern(whole, n) : row(layer, head);
    };
  };
  const known = (rows) => rows.flat().filter((value) => value !== undefined && !Number.isNaN(value));
  T.isEmpty = (pattern) => !known(pattern.difference).length;
  const signed = (run) => run === "difference";
  const most = (rows) => T.most(known(rows)) || 1;

  const destination = (pattern, data, y) => (pattern.whole ? y : data.tokens.length - 1);
  const short = (text, limit) => (text.length > limit ? text.slice(0, limit - 1) + "…" : text);
  const tick = (data, i) => short(T.token(data.tokens[i]).trim() || "␣", 11);
  T.tokenName = (data, i) => `${T.quoted(T.short(data.tokens[i]))} (${data.places[i]})`;
  /* In all three runs, whichever is drawn. */
  const weights = (pattern, x, y) => {
    const [before, after, change] = T.RUNS.map((run) => pattern[run][y][x]);
    return `${T.num(before)} unsteered, ${T.num(after)} steered (${T.num(change, true)})`;
  };

  T.patternGrid = (pattern, data, run, { name, pick, over }) => {
    const dest = (y) => destination(pattern, data, y), rows = pattern[run];
    return T.grid(rows, {
      label: `Head ${name}, ${run}: destination tokens down, source tokens across`,
      columns: { name: (x) => tick(data, x), tilt: true }, rows: { name: (y) => tick(data, dest(y)) },
      limit: most(rows), signed: signed(run), width: 640, most: 22, least: 6,
      says: (x, y) => `${T.tokenName(data, dest(y))} looks at ${T.tokenName(data, x)}: ${weights(pattern, x, y)}`,
      pick: (x, y) => pick(dest(y)), over: (x, y) => over(y === undefined ? null : dest(y)),
    });
  };
  T.patternRows = (pattern, data) => {
    const line = (y, x) =>
      [data.places[destination(pattern, data, y)], data.places[x], ...T.RUNS.map((run) => pattern[run][y][x])];
    const all = pattern.steered.flatMap((row, y) => row.flatMap((value, x) => (value === undefined ? [] : [line(y, x)])));
    return [["destination", "source", ...T.RUNS], ...all];
  };

  /* A small picture of a pattern; of a single row, a strip. */
  T.thumbnail = (pattern, run) => {
    const rows = pattern[run], n = rows[0].length, size = Math.max(2, Math.floor(144 / n)), high = pattern.whole ? size : 18;
    const cells = T.cells(rows, { limit: most(rows), size });
    return T.svg("svg", { class: "thumbnail", width: n * size, height: rows.length * high, "aria-hidden": "true" },
      T.svg("g", { transform: `scale(1 ${high / size})` }, cells));
  };

  /* Where token t looks and who looks at it, by token; undefined where that is not known. */
  T.looks = (pattern, data, run, t) => {
    const n = data.tokens.length, rows = pattern[run], row = pattern.whole ? rows[t] : rows[0];
    const into = pattern.whole ? rows.map((r) => r[t]) : Array(n).fill(undefined);
    return { out: row, into, top: most([row, into]), two: signed(run) };
  };
  const strongest = (values, data, two) => values.map((value, i) => [i, value])
    .filter(([, value]) => Math.abs(value) >= 0.01).sort((a, b) => Math.abs(b[1]) - Math.abs(a[1])).slice(0, 3)
    .map(([i, value]) => `${T.tokenName(data, i)} ${T.num(value, two)}`).join(", ");
  T.looksSaid = (pattern, data, run, t) => {
    const n = data.tokens.length, last = T.tokenName(data, n - 1);
    if (!pattern.whole && t !== n - 1)
      return `The last token, ${last}, looks at ${T.tokenName(data, t)}: ${weights(pattern, t, 0)}.`;
    const { out, into, two } = T.looks(pattern, data, run, t), how = two ? "most differently" : "most";
    const back = strongest(into.map((value, i) => (i === t ? undefined : value)), data, two);
    return `${T.tokenName(data, t)} looks ${how} at ${strongest(out, data, two) || "nothing"}.`
      + (back && ` It is looked at ${how} by ${back}.`);
  };
})();
