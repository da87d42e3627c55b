/* What a live page asks of its model: the controls, and the address that brings them back after a reload
   (m=4:1,r7:-0.5 is vector 4 and, turned around at half its length, the random vector of seed 7). */
(() => {
  const T = TlSteer, el = T.el;
  const MOST = 2, STEP = 0.05, FURTHEST = 50; // of strengths: the slider's end and step, and what may be typed
  const LARGEST = 2 ** 31; // a seed

  const between = (x, least, most) => Math.min(most, Math.max(least, x));
  const parsed = (text) => {
    const match = /^(r?)(\d{1,9}):(-?\d{1,3}(?:\.\d{1,3})?)$/.exec(text);
    return match && { random: match[1] === "r", number: Number(match[2]), strength: Number(match[3]) };
  };
  const written = (part) => `${part.random ? "r" : ""}${part.number}:${part.strength}`;
  const named = (part) => (part.random ? `random vector ${part.number}` : `vector ${part.number}`);
  const one = (number) => ({ random: false, number, strength: 1 });

  /* what is asked now */
  T.asked = (live) => {
    const found = (name, usual, least, most) => {
      const x = T.at.number(name);
      return x === null ? usual : between(x, least, most);
    };
    const known = (part) => part && (part.random || live.vectors.some(([number]) => number === part.number));
    const most = live.mixes ? live.most.parts : 1;
    const mix = (T.at.get("m") || "").split(",").map(parsed).filter(known).slice(0, most);
    return {
      prompt: (T.at.get("ask") || "").slice(0, live.most.prompt),
      chat: live.chat && T.at.get("raw") !== "1",
      mix: mix.length ? mix : [one(live.vectors[0][0])],
      all: found("s", 1, -FURTHEST, FURTHEST),
      tokens: Math.round(found("n", 40, 1, live.most.tokens)),
      temperature: found("t", 0, 0, 10),
      seed: Math.round(found("seed", 0, 0, LARGEST)),
    };
  };
  T.keepAsked = (live, now) => T.at.set({
    ask: now.prompt.length > 1500 ? null : now.prompt,
    raw: live.chat && !now.chat ? 1 : null,
    m: now.mix.map(written).join(","),
    s: now.all === 1 ? null : now.all,
    n: now.tokens,
    t: now.temperature || null,
    seed: now.seed || null,
  });
  /* As the server takes it: each strength times that of the mixture. */
  T.question = ({ prompt, chat, tokens, temperature, seed, mix, all }) => ({
    prompt, chat, tokens, seed,
    temperature: temperature || null,
    mix: mix.map((part) => ({ ...part, strength: Math.round(part.strength * all * 1e4) / 1e4 })),
  });

  /* a strength: a slider and its number, which may be typed beyond the slider's ends */
  const slider = (label, value, set) => {
    const box = el("input", { type: "number", step: STEP, min: -FURTHEST, max: FURTHEST, value, "aria-label": label + ", as a number" });
    const track = el("input", { type: "range", min: -MOST, max: MOST, step: STEP, value, "aria-label": label });
    track.addEventListener("input", () => { box.value = track.value; set(Number(track.value)); });
    box.addEventListener("input", () => {
      if (!Number.isFinite(box.valueAsNumber)) return;
      track.value = box.value;
      set(between(box.valueAsNumber, -FURTHEST, FURTHEST));
    });
    const ends = ["−" + MOST, "0", "+" + MOST].map((end) => el("span", {}, end));
    return [el("div", { class: "ends" }, track, el("small", {}, ends)), box];
  };
  const chooser = (live, part, changed) => {
    if (part.random) return el("label", {}, "random, seed ", seedOf(part, changed));
    const words = ([number, label]) => `vector ${number}${label ? " " + T.quoted(T.short(label)) : ""}`;
    const box = el("select", { "aria-label": "Vector" },
      live.vectors.map((known) => el("option", { value: known[0], selected: known[0] === part.number }, words(known))));
    box.addEventListener("change", () => { part.number = Number(box.value); changed(true); });
    return box;
  };
  const seedOf = (part, changed) => {
    const box = el("input", { type: "number", min: 0, max: LARGEST, step: 1, value: part.number });
    box.addEventListener("input", () => {
      const seed = box.valueAsNumber;
      if (!Number.isInteger(seed) || seed < 0 || seed > LARGEST) return;
      part.number = seed;
      changed();
    });
    return box;
  };

  T.mixer = (live, now, changed) => {
    const box = el("fieldset", {}), mix = now.mix, full = () => mix.length >= (live.mixes ? live.most.parts : 1);
    const unused = () => (live.vectors.find(([n]) => !mix.some((p) => !p.random && p.number === n)) || live.vectors[0])[0];
    const seed = () => 1 + Math.max(-1, ...mix.filter((part) => part.random).map((part) => part.number));
    const change = (act) => () => { act(); changed(); draw(true); };
    const adding = (text, part) =>
      el("button", { type: "button", disabled: full(), onclick: change(() => mix.push(part())) }, text);
    const removing = (part, i) => el("button", { type: "button", "aria-label": "Remove " + named(part), disabled: mix.length < 2,
      onclick: change(() => mix.splice(i, 1)) }, "×");
    const row = (part, i) => el("div", { class: "live-part" },
      chooser(live, part, (anew) => { changed(); if (anew) draw(); }),
      slider("Strength of " + named(part), part.strength, (x) => { part.strength = x; changed(); }), removing(part, i));
    const draw = (moved) => {
      T.put(box, el("legend", {}, "Vectors, times their own strength"), mix.map(row),
        el("div", { class: "row" }, adding("Add vector", () => one(unused())),
          adding("Add random vector", () => ({ ...one(seed()), random: true }))),
        el("div", { class: "live-part live-all" }, el("span", {}, "all of it, times"),
          slider("Strength of the mixture", now.all, (x) => { now.all = x; changed(); }), el("span")));
      // What was pressed is gone, and the keyboard goes on where the change is.
      if (moved) [...box.querySelectorAll(".live-part:not(.live-all) input[type=range]")].pop().focus();
    };
    draw();
    return box;
  };

  T.field = (text, node) => el("label", {}, el("span", {}, text), node);
  const counter = (now, name, range, changed) => {
    const box = el("input", { type: "number", ...range, value: now[name] });
    box.addEventListener("input", () => {
      const x = box.valueAsNumber;
      if (!Number.isFinite(x)) return;
      now[name] = between(range.step === 1 ? Math.round(x) : x, range.min, range.max);
      changed();
    });
    return box;
  };
  const reading = (now, changed) => {
    const option = (value, text) => el("option", { value, selected: (value === "chat") === now.chat }, text);
    const box = el("select", {}, option("chat", "a user's message"), option("raw", "as it is"));
    box.addEventListener("change", () => { now.chat = box.value === "chat"; changed(); });
    return box;
  };
  T.askedSettings = (live, now, changed) => el("div", { class: "row live-settings" },
    live.chat && T.field("prompt is read as", reading(now, changed)),
    T.field("tokens at most", counter(now, "tokens", { min: 1, max: live.most.tokens, step: 1 }, changed)),
    T.field("temperature (0 is greedy)", counter(now, "temperature", { min: 0, max: 10, step: 0.1 }, changed)),
    T.field("seed", counter(now, "seed", { min: 0, max: LARGEST, step: 1 }, changed)));
})();
