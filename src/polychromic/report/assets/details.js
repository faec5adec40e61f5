"use strict";
// What stands behind a number: shown while it is pointed at or focused, kept by a tap, closed by Escape.
(() => {
  const box = document.getElementById("detail");
  let owner = null;

  function show(number) {
    hide();
    owner = number;
    box.textContent = number.dataset.detail;
    box.hidden = false;
    number.setAttribute("aria-describedby", "detail");
    place();
  }

  function place() {
    const at = owner.getBoundingClientRect(), size = box.getBoundingClientRect();
    const below = at.bottom + 6 + size.height <= innerHeight;
    box.style.left = Math.max(8, Math.min(at.left, innerWidth - size.width - 8)) + "px";
    box.style.top = (below ? at.bottom + 6 : Math.max(8, at.top - size.height - 6)) + "px";
  }

  function hide() {
    if (owner) owner.removeAttribute("aria-describedby");
    owner = null;
    box.hidden = true;
  }

  const numberAt = event => event.target instanceof Element ? event.target.closest(".number") : null;
  for (const kind of ["pointerover", "focusin", "click"])
    document.addEventListener(kind, event => { const number = numberAt(event); if (number) show(number); else if (kind === "click") hide(); });
  document.addEventListener("pointerout", event => { if (numberAt(event) === owner && document.activeElement !== owner) hide(); });
  document.addEventListener("focusout", event => { if (numberAt(event)) hide(); });
  document.addEventListener("keydown", event => { if (event.key === "Escape") hide(); });
  // Going to a number by keyboard may scroll it into view: the box goes along, and ends where its number leaves the screen.
  document.addEventListener("scroll", () => {
    if (!owner) return;
    const at = owner.getBoundingClientRect();
    if (at.bottom < 0 || at.top > innerHeight) hide(); else place();
  }, { capture: true, passive: true });
})();
