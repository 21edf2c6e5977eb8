for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  table.querySelectorAll("th").forEach((head, column) => {
    const first = body.rows[0] && body.rows[0].cells[column];
    if (first && first.dataset.value !== undefined) head.classList.add("number");
    head.querySelector("button").addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      table.querySelectorAll("th").forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = row => { const c = row.cells[column]; return c.dataset.value === undefined ? c.textContent : Number(c.dataset.value); };
      const rows = [...body.rows].sort((a, b) => {
        const [x, y] = [key(a), key(b)];
        return typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y), undefined, { numeric: true });
      });
      if (down) rows.reverse();
      body.append(...rows);
    });
  });
}
