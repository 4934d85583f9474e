"use strict";
// Sorts and filters the cards of the index; the choice lives in the address, so that a link keeps it.
const list = document.querySelector(".runs");
const cards = [...list.children];
const controls = { sort: document.querySelector("#sort"), planner: document.querySelector("#planner"), scenario: document.querySelector("#scenario") };
const count = document.querySelector("#count");
const number = (card, key) => Number(card.dataset[key] || -1);
const ORDER = {
  newest: (a, b) => b.dataset.when.localeCompare(a.dataset.when),
  oldest: (a, b) => a.dataset.when.localeCompare(b.dataset.when),
  best: (a, b) => number(b, "score") - number(a, "score") || ORDER.newest(a, b),
  worst: (a, b) => number(a, "score") - number(b, "score") || ORDER.newest(a, b),
  collisions: (a, b) => number(b, "collisions") - number(a, "collisions") || ORDER.newest(a, b),
};

function show() {
  const planner = controls.planner.value, scenario = controls.scenario.value;
  let shown = 0;
  for (const card of cards.sort(ORDER[controls.sort.value])) {
    const fits = (!planner || card.dataset.planners.split(" ").includes(planner))
      && (!scenario || card.dataset.scenarios.split(" ").includes(scenario));
    card.hidden = !fits;
    shown += fits;
    list.append(card);
  }
  count.textContent = shown === cards.length ? shown + (shown === 1 ? " run" : " runs") : shown + " of " + cards.length + " runs";
  const chosen = new URLSearchParams(Object.entries(controls).filter(([, c]) => c.selectedIndex > 0).map(([k, c]) => [k, c.value]));
  try { history.replaceState(null, "", "#" + chosen); } catch (error) { console.debug("the address stays as it is", error); }
}

const asked = new URLSearchParams(location.hash.slice(1));
for (const [key, control] of Object.entries(controls)) {
  if ([...control.options].some((option) => option.value === asked.get(key))) control.value = asked.get(key);
  control.addEventListener("change", show);
}
show();
