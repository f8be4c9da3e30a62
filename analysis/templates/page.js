(() => {
  const contents = document.querySelector("nav details");
  if (matchMedia("(max-width: 60rem)").matches) contents.open = false;

  // A click on a head sorts its table by that column; a third click gives the rows' own order back.
  const value = (cell) => {
    const text = cell.textContent.trim().replace(/,/g, "").replace("\u2212", "-");
    const number = text.match(/^[+-]?\d+(\.\d+)?/);
    return number ? parseFloat(number[0]) : text;
  };
  const below = (a, b) => {
    if (typeof a === typeof b) return typeof a === "number" ? a - b : a.localeCompare(b);
    return typeof a === "number" ? -1 : 1;
  };
  document.querySelectorAll("main table:not(.runs)").forEach((table) => {
    const body = table.tBodies[0], rows = [...body.rows], heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const was = head.getAttribute("aria-sort");
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        const next = { ascending: "descending", descending: null }[was];
        const order = next === undefined ? "ascending" : next;
        if (order) head.setAttribute("aria-sort", order);
        table.classList.toggle("sorted", order !== null);
        const sign = order === "descending" ? -1 : 1;
        const sorted = order
          ? [...rows].sort((a, b) => sign * below(value(a.cells[column]), value(b.cells[column])))
          : rows;
        body.append(...sorted);
      });
    });
  });

  // What fits: one row a method, from the data in the page.
  const source = document.getElementById("fits-data");
  if (!source) return;
  const data = JSON.parse(source.textContent), form = document.getElementById("fits-form");
  const out = document.getElementById("fits-out"), told = document.getElementById("fits-told");
  const { methods, counts, cards, tokens } = data;
  const show = () => {
    const [model, card, count, sequence] = ["model", "card", "count", "sequence"].map(
      (name) => Number(form.elements[name].value));
    out.replaceChildren(...methods.map(([, title], method) => {
      const at = ((model * methods.length + method) * counts.length + count) * cards.length + card;
      const batch = data.cells[2 * at], gib = data.cells[2 * at + 1];
      const fits = Math.floor((batch * tokens) / sequence);
      const row = document.createElement("tr");
      const exact = sequence === tokens;
      const words = sequence > (data.longest[model] || sequence) ? ["longer than the model's", "\u2013"]
        : gib === null ? ["cannot be spread so", "\u2013"]
        : !batch && sequence >= tokens ? [`short by ${gib.toFixed(1)} GiB${exact ? "" : " or more"}`, "\u2013"]
        : !fits ? ["not told", "\u2013"]
        : [`${exact ? "" : "at least "}${fits}`, `${gib.toFixed(1)} of ${cards[card]}`];
      [title, ...words].forEach((text, index) => {
        const cell = document.createElement(index ? "td" : "th");
        if (!index) { cell.scope = "row"; cell.className = "key"; }
        cell.textContent = text;
        row.append(cell);
      });
      return row;
    }));
    told.textContent = sequence === tokens ? ""
      : `Predicted at ${tokens} tokens; what a step keeps goes by the tokens in all, so the batch `
        + `is of the same number of tokens. To be told exactly: python -m lomo fits --models `
        + `${data.models[model]} --gpu ${cards[card]} --gpus ${counts[count]} --seq-len ${sequence}`;
  };
  form.addEventListener("change", show);
  form.hidden = false;
  show();
})();
