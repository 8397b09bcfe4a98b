// Titles become buttons that sort; without this script the table is as it was written.
"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const titles = [...table.tHead.rows[0].cells];
  titles.forEach((title, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...title.childNodes);
    title.append(button);
    button.addEventListener("click", () => {
      const descending = title.getAttribute("aria-sort") === "ascending";
      titles.forEach((other) => other.removeAttribute("aria-sort"));
      title.setAttribute("aria-sort", descending ? "descending" : "ascending");
      sort(table.tBodies[0], column, descending, title.classList.contains("text"));
    });
  });
}

// Numbers are in data-v; a cell without one is undefined and stays last in both directions.
function sort(body, column, descending, text) {
  const names = new Intl.Collator("en", { numeric: true });
  const key = (cell) => (text ? cell.textContent : Number(cell.dataset.v ?? NaN));
  const rows = [...body.rows].map((row) => ({ row, key: key(row.cells[column]) }));
  rows.sort((a, b) => {
    const [undefinedA, undefinedB] = [Number.isNaN(a.key), Number.isNaN(b.key)];
    if (undefinedA || undefinedB) return undefinedA - undefinedB;
    const order = text ? names.compare(a.key, b.key) : a.key - b.key;
    return descending ? -order : order;
  });
  body.append(...rows.map(({ row }) => row));
}
