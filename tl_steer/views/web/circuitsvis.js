/* CircuitsVis's own components, in pages of ours: started when the first is drawn, and unmounted when
   its place has left the page. */
(() => {
  const T = TlSteer, el = T.el;

  /* Its script lies deflated in the page. As an inline script it may run, because the page's policy has
     the hash of this very text. */
  const start = async () => {
    await T.parsed();
    const script = document.createElement("script");
    script.textContent = await T.inflated(document.getElementById("circuitsvis").textContent);
    document.body.append(script);
    script.remove();  // it has run, and a copy of the page does without
    // It makes tensors that it never disposes of: these are collected, textures would not be.
    await globalThis._tfengine.setBackend("cpu");
  };
  let started = null;
  T.circuitsvisReady = () => (started = started || start());

  /* Its `render` keeps the React root to itself, so that nothing could be unmounted. What it is given is
     therefore a component of ours, which renders theirs until it is told to render nothing. React takes
     whatever has this mark for a class of components. */
  class Holder {
    constructor(props) { this.props = props; props.held.holder = this; }
    render() {
      const { name, props, gone } = this.props.held;
      // An element that the bundled React made itself has whatever mark its version wants.
      return gone ? null : { ...CircuitsVis.Hello({ name: "" }), type: CircuitsVis[name], props };
    }
    again() { this.updater.enqueueForceUpdate(this); }
  }
  Holder.prototype.isReactComponent = {};

  /* What is mounted; looked through whenever the page changes, as long as there is any. */
  const live = new Set();
  T.circuitsvisMounted = () => live.size;
  const look = () => {
    for (const held of live) {
      if (held.place.isConnected) { tend(held); continue; }
      held.gone = true;
      if (held.holder) held.holder.again();
      live.delete(held);
    }
    if (!live.size) watch.disconnect();
  };
  const watch = new MutationObserver(look);

  /* Its pictures have no names, and its small heads cannot be reached from the keyboard. */
  const tend = ({ place, label, names, name }) => {
    place.querySelectorAll("canvas:not([aria-label])").forEach((canvas) => {
      const at = [...place.querySelectorAll("canvas")].indexOf(canvas) - (name === "AttentionPatterns" ? 1 : 0);
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", names[at] || label);
      const picked = name === "AttentionPatterns" ? canvas.closest("figure") : smallHead(place, canvas);
      if (names[at] && picked) reachable(picked, names[at]);
    });
    place.querySelectorAll("select:not([aria-label])").forEach((box) => {
      const before = box.previousElementSibling || box.parentElement;
      box.setAttribute("aria-label", before.textContent.replace(/[:(].*/s, "").trim());
    });
  };
  /* The element with the head's listeners: the cell of the grid's first row has it as its only child. */
  const smallHead = (place, canvas) => {
    const rows = place.firstElementChild && place.firstElementChild.children;
    const cell = rows && [...rows].flatMap((row) => [...row.children]).find((child) => child.contains(canvas));
    return cell && cell.firstElementChild;
  };
  const reachable = (node, label) => {
    for (const [name, value] of Object.entries({ tabindex: "0", role: "button", "aria-label": label })) node.setAttribute(name, value);
    node.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      node.click();
    });
  };

  /* A component on a sheet of paper. `names` are those of its heads. What comes back shows other props
     in the same component, so that what was locked in it stays locked. */
  let made = 0;
  T.circuitsvis = (parent, name, props, title, names = []) => {
    const place = el("div", { id: "circuitsvis-" + ++made, class: "place", role: "group", "aria-label": title || name });
    const sheet = el("div", { class: "sheet of-" + name, "aria-busy": "true" }, title && el("h4", {}, title), place);
    T.add(parent, sheet);
    const held = { name, props, place, names, label: title || name, holder: null, gone: false };
    const mount = () => {
      sheet.removeAttribute("aria-busy");
      if (!place.isConnected) return;
      live.add(held);
      watch.observe(document.body, { childList: true, subtree: true });
      CircuitsVis.render(place.id, Holder, { held });
    };
    T.circuitsvisReady().then(mount).catch((error) => {
      console.error(error);
      sheet.removeAttribute("aria-busy");
      T.add(place, `CircuitsVis could not be started: ${error}`);
    });
    return { show: (next) => { held.props = next; if (held.holder) held.holder.again(); } };
  };

  /* Its token views set innerHTML. A word joiner, which is not seen, keeps "<" from opening a tag
     and "&" from starting a character reference; as text it reads the same, unlike "&lt;". */
  T.inert = (text) => T.token(text).replace(/[<&]/g, "$&\u2060");
})();
