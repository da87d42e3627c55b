/* A page with a model behind it (tl_steer/serving): any prompt under any mixture of vectors. It is there only where a
   server gave the page; what the server says comes as JSON and is shown as text. */
(() => {
  const T = TlSteer, el = T.el;
  const CARDS = [["steered", "Steered"], ["unsteered", "Unsteered"], ["random", "Random vector of the same length"]];
  const EVERY = 2000; // milliseconds between looks for new alerts
  const MOST = 2, STEP = 0.05; // of strengths
  // A copy of the page that somebody saved has no server.
  const live = T.has("live") && location.protocol !== "file:" ? T.block("live") : null;

  /* the server */
  const post = async (name, asked) => {
    const answer = await fetch("api/" + name, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(asked) });
    if (answer.ok) return answer;
    const told = await answer.json().catch(() => ({}));
    throw new Error(told.error || `The server answered ${answer.status}.`);
  };
  const asJson = async (name, asked) => (await post(name, asked)).json();
  const events = async (name, asked, hear) => {
    const reader = (await post(name, asked)).body.getReader(), decoder = new TextDecoder();
    for (let rest = ""; ;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
      rest = lines.pop();
      lines.filter(Boolean).forEach((line) => hear(JSON.parse(line)));
    }
  };
  const said = (error) => (error instanceof TypeError ? "The server does not answer: it was stopped, or the connection is gone." : error.message);

  /* what is asked is in the address, so that a reload finds it again: m=4:1,r7:-0.5 */
  const parsed = (text) => {
    const match = /^(r?)(\d{1,9}):(-?\d{1,3}(?:\.\d{1,3})?)$/.exec(text);
    return match && { random: match[1] === "r", number: Number(match[2]), strength: Number(match[3]) };
  };
  const known = (part) => part && (part.random || live.vectors.some(([number]) => number === part.number));
  const numbered = (name, usual, least, most) => { const x = T.at.number(name); return x === null ? usual : Math.min(most, Math.max(least, x)); };
  const state = () => {
    const mix = (T.at.get("m") || "").split(",").map(parsed).filter(known).slice(0, live.most.parts);
    return {
      prompt: (T.at.get("ask") || "").slice(0, live.most.prompt),
      chat: live.chat && T.at.get("raw") !== "1",
      mix: mix.length ? mix : [{ random: false, number: live.vectors[0][0], strength: 1 }],
      all: numbered("s", 1, -50, 50),
      tokens: Math.round(numbered("n", Math.min(40, live.most.tokens), 1, live.most.tokens)),
      temperature: numbered("t", 0, 0, 10),
      seed: Math.round(numbered("seed", 0, 0, 2 ** 31)),
    };
  };
  const keep = (now) => T.at.set({
    ask: now.prompt.length > 1500 ? null : now.prompt, raw: live.chat && !now.chat ? 1 : null,
    m: now.mix.map((p) => `${p.random ? "r" : ""}${p.number}:${p.strength}`).join(","), s: now.all === 1 ? null : now.all,
    n: now.tokens, t: now.temperature || null, seed: now.seed || null,
  });
  const asked = (now) => ({
    prompt: now.prompt, chat: now.chat, tokens: now.tokens, temperature: now.temperature || null, seed: now.seed,
    mix: now.mix.map((p) => ({ ...p, strength: Math.round(p.strength * now.all * 1e4) / 1e4 })),
  });

  /* a strength: a slider and the number that it stands for, which may be typed beyond the slider's ends */
  const slider = (label, value, set) => {
    const box = el("input", { type: "number", step: STEP, min: -50, max: 50, value, "aria-label": label + ", as a number" });
    const track = el("input", { type: "range", min: -MOST, max: MOST, step: STEP, value, "aria-label": label });
    track.addEventListener("input", () => { box.value = track.value; set(Number(track.value)); });
    box.addEventListener("input", () => {
      if (!Number.isFinite(box.valueAsNumber)) return;
      track.value = box.value;
      set(Math.max(-50, Math.min(50, box.valueAsNumber)));
    });
    return [el("div", { class: "ends" }, track, el("small", {}, el("span", {}, "−" + MOST), el("span", {}, "0"), el("span", {}, "+" + MOST))), box];
  };
  const named = (number, label) => `vector ${number}${label ? " " + T.quoted(T.short(label)) : ""}`;
  const title = (part) => (part.random ? `random vector ${part.number}` : `vector ${part.number}`);
  const chooser = (part, changed) => {
    if (part.random) {
      const seed = el("input", { type: "number", min: 0, max: 2 ** 31, step: 1, value: part.number, "aria-label": "Seed of the random vector" });
      seed.addEventListener("input", () => { if (Number.isInteger(seed.valueAsNumber) && seed.valueAsNumber >= 0) { part.number = seed.valueAsNumber; changed(); } });
      return el("label", {}, "random, seed ", seed);
    }
    const options = live.vectors.map(([number, label]) => el("option", { value: number, selected: number === part.number }, named(number, label)));
    const box = el("select", { "aria-label": "Vector" }, options);
    box.addEventListener("change", () => { part.number = Number(box.value); changed(true); });
    return box;
  };

  const mixer = (now, changed) => {
    const box = el("fieldset", {});
    const button = (text, part) => el("button", { type: "button", disabled: now.mix.length >= (live.mixes ? live.most.parts : 1), onclick: () => { now.mix.push(part()); changed(); draw(true); } }, text);
    const unused = () => (live.vectors.find(([number]) => !now.mix.some((p) => !p.random && p.number === number)) || live.vectors[0])[0];
    const seed = () => 1 + Math.max(-1, ...now.mix.filter((p) => p.random).map((p) => p.number));
    const removal = (part, i) => el("button", { type: "button", "aria-label": "Remove " + title(part), disabled: now.mix.length < 2, onclick: () => { now.mix.splice(i, 1); changed(); draw(true); } }, "×");
    const row = (part, i) => el("div", { class: "live-part" }, chooser(part, (anew) => { changed(); if (anew) draw(); }),
      slider("Strength of " + title(part), part.strength, (x) => { part.strength = x; changed(); }), removal(part, i));
    const draw = (moved) => {
      T.put(box, el("legend", {}, "Vectors, times their own strength"), now.mix.map(row),
        el("div", { class: "row" }, button("Add vector", () => ({ random: false, number: unused(), strength: 1 })), button("Add random vector", () => ({ random: true, number: seed(), strength: 1 }))),
        el("div", { class: "live-part live-all" }, el("span", {}, "all of it, times"), slider("Strength of the mixture", now.all, (x) => { now.all = x; changed(); }), el("span")));
      // What was pressed is gone, and the keyboard goes on where the change is.
      if (moved) [...box.querySelectorAll(".live-part:not(.live-all) input[type=range]")].pop().focus();
    };
    draw();
    return box;
  };

  const field = (text, node) => el("label", {}, el("span", {}, text), node);
  const counter = (now, name, range, changed) => {
    const box = el("input", { type: "number", ...range, value: now[name] });
    box.addEventListener("input", () => {
      if (!Number.isFinite(box.valueAsNumber)) return;
      now[name] = Math.min(range.max, Math.max(range.min, range.step === 1 ? Math.round(box.valueAsNumber) : box.valueAsNumber));
      changed();
    });
    return box;
  };
  const settings = (now, changed) => {
    const kind = el("select", {}, el("option", { value: "chat", selected: now.chat }, "a user's message"), el("option", { value: "raw", selected: !now.chat }, "as it is"));
    kind.addEventListener("change", () => { now.chat = kind.value === "chat"; changed(); });
    return el("div", { class: "row live-settings" }, live.chat && field("prompt is read as", kind),
      field("tokens at most", counter(now, "tokens", { min: 1, max: live.most.tokens, step: 1 }, changed)),
      field("temperature (0 is greedy)", counter(now, "temperature", { min: 0, max: 10, step: 0.1 }, changed)),
      field("seed", counter(now, "seed", { min: 0, max: 2 ** 31, step: 1 }, changed)));
  };

  /* texts as they come */
  const cards = () => {
    const found = {};
    const nodes = CARDS.map(([name, heading]) => {
      const text = el("div", { class: "said" }), alerts = el("div", { role: "status" });
      found[name] = { text, alerts };
      return el("div", { class: `card ${{ steered: "steered", random: "control" }[name] || ""}`, "data-text": name }, el("h3", {}, heading), text, alerts);
    });
    return { node: el("div", { class: "live-texts" }, nodes), found };
  };
  const warning = (alert) => {
    const vector = alert.vector === null ? "" : `, vector ${alert.vector}${alert.label ? " " + T.quoted(T.short(alert.label)) : ""}`;
    return el("p", { class: "alert" }, `The monitor: ${alert.kind}${vector}, p = ${T.num(alert.p_value)}`);
  };
  const marked = (found, texts) => {
    for (const name of ["steered", "random"]) {
      const same = texts[name] === texts.unsteered;
      T.put(found[name].text, same ? el("span", { class: "note" }, "The same text as unsteered.") : T.said(texts.unsteered, texts[name]));
    }
  };

  /* views of a prompt, a tab each */
  const inspected = (root, views) => {
    const body = el("section"), kinds = views.map((view) => view.kind);
    const panels = Object.fromEntries(views.map((view) => [view.kind, view.data])); // some take their numbers from others
    const show = (kind) => {
      const view = views[Math.max(0, kinds.indexOf(kind))];
      for (const button of tabs.children) button.setAttribute("aria-pressed", String(button.dataset.kind === view.kind));
      T.at.set({ view: view.kind });
      T.show(T.put(body), view.kind === "circuitsvis" ? { ...view, data: { ...view.data, panels } } : view);
    };
    const name = (kind) => (T.vectorTabs.find((tab) => tab.kind === kind) || { title: kind }).title;
    const tabs = el("div", { class: "row", role: "group", "aria-label": "Views" }, kinds.map((kind) => el("button", { type: "button", "data-kind": kind, onclick: () => show(kind) }, name(kind))));
    T.put(root, tabs, body);
    show(T.at.get("view"));
  };

  /* what the monitor, or another one that writes to the same log, has raised since the page is served */
  const tail = (root) => {
    const body = el("div"), standing = el("p", { class: "note", role: "status" }, "None since this page is served.");
    let version = 0;
    const look = async () => {
      if (!body.isConnected) return;
      try {
        const found = await asJson("alerts", { version });
        if (found.data) { standing.textContent = ""; T.put(body); T.drawn(body, "alerts", found.data); }
        version = found.version;
      } catch (error) { standing.textContent = said(error); }
      setTimeout(look, EVERY);
    };
    T.add(root, el("section", { class: "live-alerts" }, el("h2", {}, "Alerts"), standing, body));
    setTimeout(look, 0);
  };

  const draw = (root) => {
    const now = state(), texts = cards(), views = el("div");
    const status = el("span", { class: "small", role: "status" });
    let job = null, stopping = false;
    const changed = () => keep(now);
    const prompt = el("textarea", { maxlength: live.most.prompt, placeholder: "Ask the model something", "aria-label": "Prompt", spellcheck: "false" });
    prompt.value = now.prompt;
    prompt.addEventListener("input", () => { now.prompt = prompt.value; changed(); });
    const tell = (text, wrong) => { status.textContent = text; status.classList.toggle("live-error", !!wrong); };

    const run = async (name, hear) => {
      keep(now);
      if (!now.prompt.trim()) { tell("Write a prompt first.", true); prompt.focus(); return; }
      busy(true);
      try { await events(name, asked(now), (event) => { common(event); hear(event); }); }
      catch (error) { tell(said(error), true); }
      if (form.isConnected) busy(false);
    };
    const common = (event) => {
      if (event.job) { job = event.job; tell(event.ahead ? `Waiting behind ${event.ahead}` : "Reading the prompt"); if (stopping) stop(); }
      if (event.stopped) tell("Stopped.");
      if (event.error) tell(event.error, true);
      if (event.done) tell("Done.");
    };
    const steer = () => {
      let count = 0, last = null;
      for (const { text, alerts } of Object.values(texts.found)) { T.put(text); T.put(alerts); }
      return run("steer", (event) => {
        if (event.alert) T.add(texts.found[event.alert.of].alerts, warning(event.alert));
        if (event.done && last) marked(texts.found, last);
        if (!event.texts) return;
        last = event.texts;
        tell(`${++count} of ${now.tokens} tokens`);
        for (const [text, words] of Object.entries(last)) texts.found[text].text.textContent = words;
      });
    };
    const inspect = () => run("inspect", (event) => {
      if (event.views) inspected(views, event.views);
      else if (event.job && !event.ahead) tell("Inspecting");
    });
    const leave = () => {
      if (form.isConnected) return;
      removeEventListener("hashchange", leave);
      stop(); // somebody went on to another page of the report
    };
    const stop = () => { stopping = true; if (job !== null) asJson("stop", { job }).catch((error) => tell(said(error), true)); };
    const busy = (is) => {
      job = null;
      stopping = false;
      steering.disabled = inspecting.disabled = is;
      stopper.disabled = !is;
      (is ? stopper : document.activeElement === document.body ? steering : document.activeElement).focus({ preventScroll: true });
    };

    const steering = el("button", { type: "submit", class: "main" }, "Steer");
    const stopper = el("button", { type: "button", disabled: true, onclick: stop }, "Stop");
    const inspecting = el("button", { type: "button", onclick: inspect }, "Inspect this prompt");
    const form = el("form", { class: "live-form", "aria-label": "Ask the model" }, field("Prompt", prompt), mixer(now, changed), settings(now, changed),
      el("div", { class: "row" }, steering, stopper, inspecting, el("span", { class: "small hide-small" }, el("kbd", {}, "Ctrl"), " ", el("kbd", {}, "Enter"), " steers"), status));
    form.addEventListener("submit", (event) => { event.preventDefault(); if (!steering.disabled) steer(); });
    form.addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); form.requestSubmit(); } });
    addEventListener("hashchange", leave);
    T.add(root, el("h2", {}, "Live: " + live.model),
      el("p", { class: "note" }, "Your prompt under the vectors that you choose, at any strength, beside a random vector of the same length and the model as it is."),
      form, texts.node, views);
    if (live.alerts) tail(root);
  };

  if (!live) return;
  T.mainTabs.push({ name: "live", title: "Live", draw });
  T.tryLive = (number) => el("a", { href: `#live?m=${number}:1` }, "try it live");
  /* Notes go to the server, which keeps them beside the bank. */
  if (T.notes && live.keeps) T.notes.send = async (notes) => { await asJson("notes", { notes }); return true; };
})();
