// The copy button of a Python session takes what can be pasted: its statements, without prompts and answers.
"use strict";

const statements = (text) => {
  const kept = [];
  let inside = false;
  for (const line of text.split("\n")) {
    const found = line.match(/^(>>>|\.\.\.)(?: (.*))?$/);
    if (found && (found[1] === ">>>" || inside)) kept.push(found[2] || "");
    inside = Boolean(found);
  }
  return kept.join("\n").replace(/\n+$/, "") + "\n";
};

document.addEventListener("click", (event) => {  // before the theme's own listener, which prefers this attribute
  const button = event.target.closest && event.target.closest("[data-clipboard-target]");
  const code = button && document.querySelector(button.dataset.clipboardTarget);
  if (code && /^>>> /m.test(code.textContent)) button.dataset.clipboardText = statements(code.textContent);
}, true);

// What the theme leaves without a name of its own, for readers who hear the page.
document.addEventListener("DOMContentLoaded", () => {
  const named = (selector, name) => document.querySelectorAll(selector).forEach((part, i) => part.setAttribute("aria-label", name(i)));
  named(".md-search", () => "Search");
  let blocks = 0;
  new MutationObserver(() => named(".md-code__nav:not([aria-label])", () => `Copy code ${(blocks += 1)}`)).observe(document.body, { childList: true, subtree: true });
});
