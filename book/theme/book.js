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
})();
