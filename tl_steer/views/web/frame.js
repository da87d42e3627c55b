/* Stands in a notebook, behind the frame of a view. The frame cannot be looked into from here, nor look out:
   it says how high it is, and is told whether the notebook is dark. */
(id) => {
  const frame = document.getElementById(id), words = document.getElementById(id + "-words");
  if (!frame) return;
  // Only those see the words whose notebook lets no script run.
  if (words) words.remove();
  const dark = () => {
    const body = document.body, said = [body.dataset.jpThemeLight, body.dataset.vscodeThemeKind, document.documentElement.getAttribute("theme")];
    if (said[0]) return said[0] === "false";
    if (said[1]) return /dark|high-contrast$/.test(said[1]);
    if (said[2]) return said[2] === "dark";
    const ground = (getComputedStyle(body).backgroundColor.match(/[\d.]+/g) || []).map(Number);
    return ground.length < 3 || ground[3] === 0 ? null : ground[0] + ground[1] + ground[2] < 384;
  };
  const tell = () => frame.contentWindow && frame.contentWindow.postMessage({ tlSteerDark: dark() }, "*");
  const height = (asked) => Math.min(Math.max(asked, 80), 4000) + "px";
  addEventListener("message", (event) => {
    const said = event.data;
    if (event.source !== frame.contentWindow || typeof said !== "object" || said === null) return;
    if (said.tlSteerAsks === "dark") tell();
    if (Number.isFinite(said.tlSteerHeight)) frame.style.height = height(said.tlSteerHeight);
    if (Number.isFinite(said.tlSteerPrinted)) frame.style.setProperty("--printed", height(said.tlSteerPrinted));
  });
  const watch = new MutationObserver(() => { if (frame.isConnected) tell(); else watch.disconnect(); });
  for (const node of [document.body, document.documentElement])
    watch.observe(node, { attributeFilter: ["class", "theme", "data-jp-theme-light", "data-vscode-theme-kind"] });
  tell();
}
