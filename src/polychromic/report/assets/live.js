"use strict";
// The server answers with a number that changes with the run; the page is loaded anew, at the same place.
(() => {
  let seen = null;
  async function ask() {
    try {
      const version = await (await fetch("version", { cache: "no-store" })).text();
      if (seen !== null && version !== seen) location.reload();
      seen = version;
    } catch {
      // The run's server ended: what is shown stays.
    }
  }
  ask();
  setInterval(ask, 3000);
})();
