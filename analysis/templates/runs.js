(() => {
  // Long lists, a page at a time: `draw(from, to)` shows a part; the buttons stand in `place`.
  const paged = (place, size, draw) => {
    const button = (text, step) => {
      const made = document.createElement("button");
      made.type = "button";
      made.textContent = text;
      made.addEventListener("click", () => show(first + step * size));
      return made;
    };
    const back = button("\u2039 back", -1), on = button("on \u203a", 1);
    const told = document.createElement("span");
    const grouped = (number) => number.toLocaleString("en");
    let first = 0, number = 0;
    const show = (from) => {
      first = Math.max(0, Math.min(from, number - 1) - (Math.max(0, Math.min(from, number - 1)) % size));
      const end = Math.min(first + size, number);
      told.textContent = number ? `${grouped(first + 1)}\u2013${grouped(end)} of ${grouped(number)}` : "none";
      back.disabled = first === 0;
      on.disabled = end === number;
      back.hidden = on.hidden = number <= size;
      draw(first, end);
    };
    told.setAttribute("aria-live", "polite");
    place.classList.add("pages");
    place.append(back, told, on);
    return (length, from = 0) => { number = length; show(from); };
  };
  const link = (run, text) => {
    const made = document.createElement("a");
    made.href = `../runs/${run}/record.json`;
    // A path may break behind its slashes.
    text.split("/").forEach((part, index) => made.append(...(index ? ["/", document.createElement("wbr"), part] : [part])));
    return made;
  };

  // A number of many runs: their records, when it is opened.
  document.querySelectorAll("details[data-of]").forEach((details) => {
    details.addEventListener("toggle", () => {
      const { start, end, of } = details.dataset, runs = of.split("\n");
      const place = document.createElement("div"), list = document.createElement("div");
      details.append(place, list);
      paged(place, 20, (from, to) => list.replaceChildren(
        ...runs.slice(from, to).map((middle) => link(start + middle + end, start + middle + end))))(runs.length);
    }, { once: true });
  });

  // Tables of very many rows; one that is linked to is shown wherever it stands.
  document.querySelectorAll("main table").forEach((table) => {
    const body = table.tBodies[0], size = 100;
    if (!body || body.rows.length <= 2 * size) return;
    const place = document.createElement("div");
    table.parentElement.before(place);
    const turn = paged(place, size, (from, to) =>
      [...body.rows].forEach((row, index) => { row.hidden = index < from || index >= to; }));
    turn(body.rows.length);
    table.tHead.addEventListener("click", () => turn(body.rows.length));
    const find = () => {
      const index = [...body.rows].findIndex((row) => row.id && `#${row.id}` === location.hash);
      if (index >= 0) { turn(body.rows.length, index); body.rows[index].scrollIntoView(); }
    };
    addEventListener("hashchange", find);
    find();
  });

  // All runs of the study, from the data in the page.
  const source = document.getElementById("runs-data");
  if (!source) return;
  const data = JSON.parse(source.textContent), form = document.getElementById("runs-form");
  let last = "";
  const ids = data.rest.map((rest, index) => (last = last.slice(0, data.shared[index]) + rest));
  const body = document.getElementById("runs-out");
  let chosen = [];
  const turn = paged(document.getElementById("runs-pages"), 50, (from, to) =>
    body.replaceChildren(...chosen.slice(from, to).map((index) => {
      const row = document.createElement("tr"), status = data.statuses[data.status[index]];
      const run = status === "not_run" ? ids[index] : link(ids[index], ids[index]);
      [run, status.replace("_", " "), data.result[index], data.seconds[index] ?? ""].forEach((content, column) => {
        const cell = document.createElement("td");
        if (column < 2) cell.className = "key";
        cell.append(content);
        row.append(cell);
      });
      return row;
    })));
  const choose = () => {
    const words = form.elements.words.value.split(/\s+/), status = form.elements.status.value;
    chosen = [...ids.keys()].filter((index) => (status === "" || String(data.status[index]) === status)
      && words.every((word) => ids[index].includes(word)));
    turn(chosen.length);
  };
  form.addEventListener("input", choose);
  form.addEventListener("submit", (event) => event.preventDefault());
  document.getElementById("runs-shown").hidden = false;
  choose();
})();
