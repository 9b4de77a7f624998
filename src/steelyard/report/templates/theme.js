// The colours of the system hold until a reader chooses others; the choice goes along from page to page where the
// browser keeps it.
(() => {
  const root = document.documentElement;
  const known = (name) => name === "light" || name === "dark";
  try {
    const kept = localStorage.getItem("steelyard-theme");
    if (known(kept)) root.dataset.theme = kept;
  } catch { /* a browser that keeps nothing for files */ }
  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const dark = () => known(root.dataset.theme) ? root.dataset.theme === "dark"
      : matchMedia("(prefers-color-scheme: dark)").matches;
    const tell = () => { button.textContent = dark() ? "Light colours" : "Dark colours"; };
    button.hidden = false;
    button.addEventListener("click", () => {
      root.dataset.theme = dark() ? "light" : "dark";
      try { localStorage.setItem("steelyard-theme", root.dataset.theme); } catch { /* as above */ }
      tell();
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", tell);
    tell();
  });
})();
