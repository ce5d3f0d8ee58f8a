// What mdBook's page lacks for keyboards and screen readers. Nothing of the book's content depends on it.
(() => {
  "use strict";
  // A box that scrolls must be reachable by keyboard; one that does not should not stop the Tab key.
  const boxes = document.querySelectorAll(".formula, .table-wrapper, .figure-box, .output-text, .output-command, pre > code");
  const reach = (box) => {
    if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  };
  const watcher = new ResizeObserver((entries) => entries.forEach((entry) => reach(entry.target)));
  boxes.forEach((box) => watcher.observe(box));
  // Formulas widen when their fonts arrive, which no observer of the box sees.
  document.fonts.ready.then(() => boxes.forEach(reach));

  // The bar at the top is the page's banner.
  document.getElementById("mdbook-menu-bar")?.setAttribute("role", "banner");

  // mdBook opens the table of contents with a label, which no key reaches: a button takes its place.
  const label = document.getElementById("mdbook-sidebar-toggle");
  const sidebar = document.getElementById("mdbook-sidebar");
  if (label && sidebar) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = label.className;
    button.title = "Table of contents";
    button.setAttribute("aria-label", "Table of contents");
    button.setAttribute("aria-controls", sidebar.id);
    button.innerHTML = label.innerHTML;
    button.addEventListener("click", () => label.click());
    const tell = () => button.setAttribute("aria-expanded", sidebar.getAttribute("aria-hidden") !== "true");
    new MutationObserver(tell).observe(sidebar, { attributeFilter: ["aria-hidden"] });
    tell();
    label.style.display = "none";
    label.after(button);
  }
})();
