// A form that is sent while nobody answers would be left for the browser's own page, and what was
// typed with it. So it is asked first whether anybody is there. Without a script it is just sent.
(() => {
  "use strict";

  const WAIT_MS = 3000;
  const form = document.querySelector("form[data-alive]");
  const unsent = document.getElementById("unsent");
  if (!form) return;
  let asking = false;
  let leaving = false;

  form.addEventListener("submit", async (event) => {
    if (leaving) return;
    event.preventDefault();
    if (asking) return;
    asking = true;
    unsent.hidden = true;
    try {
      const signal = AbortSignal.timeout(WAIT_MS);
      await fetch(form.dataset.alive, { method: "HEAD", cache: "no-store", signal });
      leaving = true;
      form.requestSubmit(event.submitter ?? undefined);
    } catch {
      unsent.hidden = false;
    } finally {
      asking = false;
      leaving = false;
    }
  });
})();
