// What a page cannot do without a script, and does not need: it says when its stream is lost, and
// keeps views of the list that somebody has named. Nothing else; frames are swapped in by htmx.
(() => {
  "use strict";

  // -- the stream ---------------------------------------------------------------------------------

  const SILENT_MS = 40_000; // the coordinator says something at least every 15 s
  const live = document.getElementById("live");
  let silent = 0;
  let tries = 0;

  const say = (word, glyph, tone) => {
    const text = word ? `${glyph} ${word}` : "";
    if (live.textContent !== text) {
      live.textContent = text;
      live.className = `live ${tone}`;
    }
  };
  const lost = () => say("connection lost, trying again", "!", "bad");
  const heard = () => {
    tries = 0;
    clearTimeout(silent);
    silent = setTimeout(lost, SILENT_MS);
    say("live", "▸", "busy");
  };

  for (const name of ["after:connection", "after:message"]) {
    document.addEventListener(`htmx:sse:${name}`, heard);
  }
  document.addEventListener("alive", heard);
  document.addEventListener("htmx:sse:error", lost);
  document.addEventListener("htmx:error", (event) => {
    if (event.target.closest?.("[hx-sse\\:connect]")) lost();
  });
  document.addEventListener("htmx:sse:before:connection", () => {
    // The first is not lost, nor is one that a tab in the background gave up.
    if (tries > 0 && !document.hidden) lost();
    tries += 1;
  });
  document.addEventListener("htmx:sse:close", (event) => {
    clearTimeout(silent);
    if (event.detail.reason === "message") say("settled", "✓", "quiet");
  });

  // -- times ------------------------------------------------------------------------------------------

  // "3 s ago" is soon untrue on a page that nobody draws anew: said in the words of shown.coarse().
  const coarse = (seconds) => {
    const whole = Math.floor(seconds);
    for (const [unit, name, rest, smaller] of [[86400, "d", 3600, "h"], [3600, "h", 60, "min"], [60, "min", 0, ""]]) {
      if (whole >= unit) {
        const number = Math.floor(whole / unit);
        const more = rest && number < 10 ? Math.floor((whole % unit) / rest) : 0;
        return `${number} ${name}` + (more ? ` ${more} ${smaller}` : "");
      }
    }
    return `${whole} s`;
  };
  // By the coordinator's clock: the page says what time it was there when it was drawn.
  const drawn = document.querySelector("footer time");
  const ahead = drawn ? Date.parse(drawn.dateTime) - Date.now() : 0;
  const retell = () => {
    if (document.hidden) return;
    for (const time of document.querySelectorAll("main time")) {
      const seconds = (Date.now() + ahead - Date.parse(time.dateTime)) / 1000;
      const said = seconds < -1 ? `in ${coarse(-seconds)}` : seconds < 1 ? "just now" : `${coarse(seconds)} ago`;
      if (time.textContent !== said) time.textContent = said;
    }
  };
  setInterval(retell, 5000);

  // -- views --------------------------------------------------------------------------------------

  const KEY = "countermand.views";
  const views = document.querySelector("#views ul");
  if (!views) return;
  const read = () => {
    try {
      return JSON.parse(localStorage.getItem(KEY)) ?? {};
    } catch {
      return {};
    }
  };
  const write = (kept) => {
    localStorage.setItem(KEY, JSON.stringify(kept));
    draw();
  };
  const button = (text, label, act) => {
    const made = document.createElement("button");
    made.type = "button";
    made.textContent = text;
    made.setAttribute("aria-label", label);
    made.addEventListener("click", act);
    return made;
  };
  const query = location.search.slice(1);

  const draw = () => {
    for (const old of views.querySelectorAll(".own")) old.remove();
    const kept = read();
    for (const [name, search] of Object.entries(kept)) {
      const item = document.createElement("li");
      item.className = "own";
      const link = document.createElement("a");
      link.href = `/workflows?${search}`;
      link.textContent = name;
      if (search === query) link.setAttribute("aria-current", "true");
      const forget = button("×", `Forget the view ${name}`, () => {
        delete kept[name];
        write(kept);
      });
      item.append(link, forget);
      views.append(item);
    }
    if (query && !views.querySelector("[aria-current]")) {
      const item = document.createElement("li");
      item.className = "own";
      const keep = button("Keep this view", "Keep this view under a name", () => {
        const field = document.createElement("input");
        field.setAttribute("aria-label", "Name of the view");
        field.maxLength = 40;
        field.addEventListener("keydown", (event) => {
          if (event.key === "Escape") draw();
          if (event.key !== "Enter" || !field.value.trim()) return;
          write({ ...read(), [field.value.trim()]: query });
        });
        item.replaceChildren(field);
        field.focus();
      });
      item.append(keep);
      views.append(item);
    }
  };
  draw();
})();
