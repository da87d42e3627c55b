/* CircuitsVis's own components, in pages of ours. */
(() => {
  const T = TlSteer, el = T.el;

  /* CircuitsVis finds its element by id, and wants one that is in the page and stays its own */
  let made = 0;
  T.circuitsvis = (parent, name, props, title) => {
    const id = "circuitsvis-" + ++made;
    T.add(parent, el("div", { class: "sheet" }, title && el("h4", {}, title), el("div", { id })));
    CircuitsVis.render(id, CircuitsVis[name], props);
  };
  /* Its token views set innerHTML. A word joiner, which is not seen, keeps "<" from opening a tag
     and "&" from starting a character reference; as text it reads the same, unlike "&lt;". */
  T.inert = (text) => T.token(text).replace(/[<&]/g, "$&\u2060");
})();
