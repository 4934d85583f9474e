"use strict";
// Sorts the overall table by a column; a second click turns the order round.  Planners without a figure stay last.
const table = document.querySelector(".board");
const body = table.tBodies[0];
const heads = [...table.tHead.rows[0].cells];
let by = -1, turned = false;

for (const head of heads) {
  const button = head.querySelector("button");
  if (!button) continue;
  const column = heads.indexOf(head);
  button.addEventListener("click", () => {
    turned = column === by && !turned;
    by = column;
    const sign = (head.dataset.better === "less") === turned ? -1 : 1;
    const value = (row) => row.cells[column].dataset.value === "" ? NaN : Number(row.cells[column].dataset.value);
    const order = (a, b) => Number.isNaN(value(a)) - Number.isNaN(value(b)) || sign * (value(a) - value(b)) || 0;
    for (const row of [...body.rows].sort(order)) body.append(row);
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
  });
}
