"use strict";
// Without this script the page shows everything; it adds the filters and the choice of a theme.
const filters = document.getElementById("filters");
const cards = [...document.querySelectorAll(".card")];
const words = new Map(cards.map((card) => [card, card.textContent.toLowerCase()]));

function apply() {
  const wanted = Object.fromEntries(new FormData(filters));
  const text = wanted.text.trim().toLowerCase();
  let shown = 0;
  for (const card of cards) {
    const fits =
      (!wanted.kind || card.dataset.kind === wanted.kind) &&
      (!wanted.decoding || card.dataset.decoding === wanted.decoding) &&
      (!wanted.category || card.dataset.categories.split(" ").includes(wanted.category)) &&
      words.get(card).includes(text);
    card.hidden = !fits;
    shown += fits;
  }
  document.getElementById("shown").textContent = `${shown} of ${cards.length} shown`;
  document.getElementById("nothing").hidden = shown > 0;
}

if (filters) {
  filters.hidden = false;
  filters.addEventListener("input", apply);
  filters.addEventListener("submit", (event) => event.preventDefault());
  apply();
}

const theme = document.getElementById("theme");
const themes = ["auto", "light", "dark"];
theme.hidden = false;
theme.addEventListener("click", () => {
  const next = themes[(themes.indexOf(document.documentElement.dataset.theme ?? "auto") + 1) % themes.length];
  document.documentElement.dataset.theme = next;
  theme.textContent = `Theme: ${next}`;
});

// Paper has nothing to click on: all is opened for it, and closed again.
let opened = [];
window.addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open]):not(.scores)")];
  for (const one of opened) one.open = true;
});
window.addEventListener("afterprint", () => {
  for (const one of opened) one.open = false;
});
