"use strict";
// The server has a word that changes with the run; what is new takes the old one's place without a flicker.
(() => {
  let seen = null;

  async function renew() {
    const page = new DOMParser().parseFromString(await (await fetch("", { cache: "no-store" })).text(), "text/html");
    // The finished report brings scripts of its own.
    if (page.getElementById("samples")) location.reload();
    else document.querySelector("main").replaceWith(page.querySelector("main"));
  }

  async function ask() {
    try {
      const version = await (await fetch("version", { cache: "no-store" })).text();
      if (seen !== null && version !== seen) await renew();
      seen = version;
    } catch {
      // The run's server ended: what is shown stays.
    }
    setTimeout(ask, 3000);
  }

  ask();
})();
