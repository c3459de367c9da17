"use strict";
// Filters over the rows of the report. Text only ever becomes text: nothing here writes markup.
(() => {
  const rows = JSON.parse(document.getElementById("data").textContent);
  const PAGE = 50;
  const place = document.getElementById("rows");
  const bar = document.getElementById("filters");
  const chosen = {};
  let words = "";
  let count = PAGE;

  const make = (tag, text, kind) => {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (kind) element.className = kind;
    return element;
  };

  const passes = (row) =>
    Object.entries(chosen).every(([name, value]) => value === "" || row.filter[name] === value) &&
    (words === "" || row.text.toLowerCase().includes(words));

  const filtered = () => rows.filter(passes);

  const show = () => {
    const found = filtered();
    const table = make("table");
    const head = table.createTHead().insertRow();
    for (const name of ["text", "gold", "model", "confidence", "nearest training row", "where"]) {
      head.append(make("th", name));
    }
    const body = table.createTBody();
    for (const row of found.slice(0, count)) {
      const line = body.insertRow();
      line.append(make("td", row.text, "text"));
      const right = row.filter.outcome !== "wrong";
      line.append(make("td", row.gold ?? ""), make("td", row.said ?? "", right ? "" : "mistake"));
      line.append(make("td", row.confidence === undefined ? "" : row.confidence.toFixed(3), "n"));
      line.append(make("td", row.nearest[0] ?? ""), make("td", row.where, "soft"));
    }
    const said = make("p", `${found.length} of ${rows.length} rows, ${Math.min(count, found.length)} shown`, "soft");
    said.setAttribute("aria-live", "polite");
    place.replaceChildren(said, table);
    if (found.length > count) {
      const button = make("button", "show more");
      button.addEventListener("click", () => { count += PAGE; show(); });
      place.append(button);
    }
  };

  const again = () => { count = PAGE; show(); };

  const select = (name) => {
    const values = [...new Set(rows.map((row) => row.filter[name]))].sort();
    if (values.length < 2) return;
    const label = make("label", name);
    const box = make("select");
    box.append(new Option("all", ""), ...values.map((value) => new Option(value, value)));
    box.addEventListener("change", () => { chosen[name] = box.value; again(); });
    label.append(box);
    bar.append(label);
  };

  const search = () => {
    const label = make("label", "text");
    const box = make("input");
    box.type = "search";
    box.addEventListener("input", () => { words = box.value.toLowerCase(); again(); });
    label.append(box);
    bar.append(label);
  };

  const download = () => {
    const button = make("button", "save these rows as JSONL");
    button.addEventListener("click", () => {
      const lines = filtered().map((row) => JSON.stringify({ row_id: row.row_id, text: row.text, label: row.gold }));
      const link = make("a");
      link.href = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "application/jsonl" }));
      link.download = "rows.jsonl";
      link.click();
      URL.revokeObjectURL(link.href);
    });
    bar.append(button);
  };

  if (rows.length) Object.keys(rows[0].filter).forEach(select);
  search();
  download();
  show();
})();
