/* A page with a model behind it (tl_steer/serving): any prompt under any mixture of vectors. It is there only where a
   server gave the page; what the server says comes as JSON and is shown as text. */
(() => {
  const T = TlSteer, el = T.el;
  const CARDS = [["steered", "Steered", "steered"], ["unsteered", "Unsteered", ""],
    ["random", "Random vector of the same length", "control"]];
  const EVERY = 2000; // milliseconds between looks for new alerts
  // A copy of the page that somebody saved has no server.
  const live = T.has("live") && location.protocol !== "file:" ? T.block("live") : null;

  /* the server */
  const post = async (name, asked) => {
    const headers = { "content-type": "application/json" };
    const answer = await fetch("api/" + name, { method: "POST", headers, body: JSON.stringify(asked) });
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
  const GONE = "The server does not answer: it was stopped, or the connection is gone.";
  const said = (error) => (error instanceof TypeError ? GONE : error.message);

  /* texts as they come, each with the alerts that it raised */
  const texts = () => {
    const found = {};
    let last = {};
    const card = ([name, heading, kind]) => {
      const [text, alerts] = [el("div", { class: "said" }), el("div", { role: "status" })];
      found[name] = { text, alerts };
      return el("div", { class: "card " + kind, "data-text": name }, el("h3", {}, heading), text, alerts);
    };
    const rows = () => [["model", "text"], ...CARDS.map(([name, heading]) => [heading, last[name] || ""])];
    return {
      node: T.figure("Live texts", el("div", { class: "live-texts" }, CARDS.map(card)), rows),
      clear: () => Object.values(found).forEach(({ text, alerts }) => { T.put(text); T.put(alerts); }),
      show: (now) => { last = now; CARDS.forEach(([name]) => { found[name].text.textContent = now[name]; }); },
      alert: (alert) => T.add(found[alert.of].alerts, warning(alert)),
      /* What differs from the unsteered text, once all of it is there. */
      mark: () => ["steered", "random"].forEach((name) => T.put(found[name].text, last[name] === last.unsteered
        ? el("span", { class: "note" }, "The same text as unsteered.") : T.said(last.unsteered, last[name]))),
    };
  };
  const warning = ({ kind, vector, label, p_value }) => {
    const name = vector === null ? "" : `, vector ${vector}${label ? " " + T.quoted(T.short(label)) : ""}`;
    return el("p", { class: "alert" }, `The monitor: ${kind}${name}, p = ${T.num(p_value)}`);
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
    const tab = (kind) => el("button", { type: "button", "data-kind": kind, onclick: () => show(kind) }, name(kind));
    const tabs = el("div", { class: "row", role: "group", "aria-label": "Views" }, kinds.map(tab));
    T.put(root, tabs, body);
    show(T.at.get("view"));
  };

  /* what has been raised since the page is served */
  const tail = () => {
    const body = el("div"), standing = el("p", { class: "note", role: "status" }, "None since this page is served.");
    let version = 0;
    const look = async () => {
      if (!body.isConnected) return;
      try {
        const found = await asJson("alerts", { version });
        if (found.data) { standing.textContent = ""; T.drawn(T.put(body), "alerts", found.data); }
        version = found.version;
      } catch (error) { standing.textContent = said(error); }
      setTimeout(look, EVERY);
    };
    setTimeout(look, 0);
    return el("section", { class: "live-alerts" }, el("h2", {}, "Alerts"), standing, body);
  };

  /* One question at a time; `told` is what it is told on the way, and `busy` whether there is one. */
  const line = (told, busy) => {
    let job = null, stopping = false;
    const send = () => asJson("stop", { job }).catch((error) => told(said(error), true));
    const common = (event) => {
      if (event.job) { job = event.job; told(event.ahead ? `Waiting behind ${event.ahead}` : "Reading the prompt"); }
      if (event.job && stopping) send();
      if (event.stopped) told("Stopped.");
      if (event.error) told(event.error, true);
      if (event.done) told("Done.");
    };
    return {
      ask: async (name, asked, hear) => {
        [job, stopping] = [null, false];
        busy(true);
        try { await events(name, asked, (event) => { common(event); hear(event); }); }
        catch (error) { told(said(error), true); }
        busy(false);
      },
      stop: () => { stopping = true; if (job !== null) send(); },
    };
  };

  const draw = (root) => {
    const now = T.asked(live), cards = texts(), views = el("div"), status = el("span", { class: "small", role: "status" });
    const changed = () => T.keepAsked(live, now);
    const told = (text, wrong) => { status.textContent = text; status.classList.toggle("live-error", !!wrong); };
    const prompt = el("textarea", { maxlength: live.most.prompt, placeholder: "Ask the model something", "aria-label": "Prompt" });
    prompt.value = now.prompt;
    prompt.addEventListener("input", () => { now.prompt = prompt.value; changed(); });

    const busy = (is) => {
      if (!form.isConnected) return;
      main.disabled = look.disabled = is;
      halt.disabled = !is;
      // A button that is switched off loses the keyboard.
      if (is) halt.focus({ preventScroll: true });
      else if (document.activeElement === document.body) main.focus({ preventScroll: true });
    };
    const { ask, stop } = line(told, busy);
    const run = (name, hear) => {
      changed();
      if (now.prompt.trim()) return ask(name, T.question(now), hear);
      told("Write a prompt first.", true);
      return prompt.focus();
    };
    const steer = () => {
      let count = 0;
      cards.clear();
      return run("steer", ({ texts: found, alert, done }) => {
        if (found) { cards.show(found); told(`${++count} of ${now.tokens} tokens`); }
        if (alert) cards.alert(alert);
        if (done) cards.mark();
      });
    };
    const inspect = () => run("inspect", (event) => {
      if (event.views) inspected(views, event.views);
      else if (event.job && !event.ahead) told("Inspecting");
    });

    const main = el("button", { type: "submit", class: "main" }, "Steer");
    const halt = el("button", { type: "button", disabled: true, onclick: stop }, "Stop");
    const look = el("button", { type: "button", onclick: inspect }, "Inspect this prompt");
    const keys = el("span", { class: "small hide-small" }, el("kbd", {}, "Ctrl"), " ", el("kbd", {}, "Enter"), " steers");
    const form = el("form", { class: "live-form", "aria-label": "Ask the model" }, T.field("Prompt", prompt),
      T.mixer(live, now, changed), T.askedSettings(live, now, changed), el("div", { class: "row" }, main, halt, look, keys, status));
    form.addEventListener("submit", (event) => { event.preventDefault(); if (!main.disabled) steer(); });
    form.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); form.requestSubmit(); }
    });
    const leave = () => {
      if (form.isConnected) return;
      removeEventListener("hashchange", leave);
      stop(); // somebody went on to another page of the report
    };
    addEventListener("hashchange", leave);
    T.add(root, el("h2", {}, "Live: " + live.model), el("p", { class: "note" }, "Your prompt under the vectors that you choose, at ",
      "any strength, beside a random vector of the same length and the model as it is."), form, cards.node, views, live.alerts && tail());
  };

  if (!live) return;
  T.mainTabs.push({ name: "live", title: "Live", draw });
  T.tryLive = (number) => el("a", { href: `#live?m=${number}:1` }, "try it live");
  /* Notes go to the server, which keeps them beside the bank. */
  if (live.keeps) T.notes.send = async (notes) => { await asJson("notes", { notes }); return true; };
})();
