// A table of at most a page of rows. Click, Enter, Space or the arrow keys choose a row; a click on a heading asks Python to sort.
// Text only: nothing that comes from a checkpoint is ever read as HTML.

const broken = (cell, text) => {
  // names may break after dots and at line breaks, nowhere else; numbers not at all
  text.split("\n").forEach((line, number) => {
    if (number) cell.append(document.createElement("br"));
    line.split(/(?<=\.)(?<!\d\.(?=\d))/).forEach((part) => cell.append(part, document.createElement("wbr")));
  });
};

const TONES = { "✓": "mfconv-good", "✗": "mfconv-bad", "≈": "mfconv-mid", "!": "mfconv-mid" }; // those of report.TONES

const element = (tag, className, parent) => {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (parent) parent.append(made);
  return made;
};

export default {
  render({ model, el }) {
    const root = element("div", "mfconv mfconv-r mfconv-live", el);

    const rows = () => [...root.querySelectorAll("tbody tr")];

    const choose = (index, focus) => {
      const all = rows();
      if (index < 0 || index >= all.length) return;
      model.set("picked", index);
      model.save_changes();
      if (focus) all[index].focus();
    };

    const show_picked = () => {
      const picked = model.get("picked");
      rows().forEach((row, index) => {
        row.setAttribute("aria-selected", String(index === picked));
        row.tabIndex = index === (picked < 0 ? 0 : picked) ? 0 : -1;
      });
    };

    const on_key = (event, index) => {
      const last = rows().length - 1;
      const moves = { ArrowDown: index + 1, ArrowUp: index - 1, Home: 0, End: last, Enter: index, " ": index };
      if (!(event.key in moves)) return;
      event.preventDefault();
      event.stopPropagation(); // JupyterLab moves between cells with the same keys
      choose(Math.max(0, Math.min(last, moves[event.key])), true);
    };

    const heading = (row, column, number) => {
      const th = element("th", column.numeric ? "mfconv-n" : "", row);
      if (column.optional) th.classList.add("mfconv-o");
      th.scope = "col";
      if (!model.get("is_sorted")) {
        th.textContent = column.title;
        return;
      }
      const sort = model.get("sort");
      const here = sort.column === number;
      th.setAttribute("aria-sort", here ? (sort.down ? "descending" : "ascending") : "none");
      const button = element("button", "mfconv-sort", th);
      button.type = "button";
      button.textContent = column.title + (here ? (sort.down ? " ↓" : " ↑") : "");
      button.addEventListener("click", () => {
        model.set("sort", { column: number, down: here ? !sort.down : false });
        model.save_changes();
      });
    };

    const draw = () => {
      const had_focus = root.contains(document.activeElement) && document.activeElement.tagName === "TR";
      root.replaceChildren();
      const columns = model.get("columns");
      const table = element("table", "mfconv-t mfconv-grid", root);
      table.setAttribute("role", "grid");
      table.setAttribute("aria-label", model.get("label"));
      const head = element("tr", "", element("thead", "", table));
      columns.forEach((column, number) => heading(head, column, number));
      const body = element("tbody", "", table);
      model.get("rows").forEach((cells, index) => {
        const row = element("tr", "", body);
        cells.forEach((text, number) => {
          const cell = element("td", columns[number].numeric ? "mfconv-n" : "", row);
          if (columns[number].optional) cell.classList.add("mfconv-o");
          if (text in TONES) cell.classList.add(TONES[text]);
          cell.title = text;
          broken(cell, text);
        });
        row.addEventListener("click", () => choose(index, false));
        row.addEventListener("keydown", (event) => on_key(event, index));
      });
      element("div", "mfconv-f", root).textContent = model.get("note");
      show_picked();
      if (had_focus) rows()[Math.max(0, model.get("picked"))]?.focus();
    };

    // Between the press of a button and its release nothing is drawn anew: a click counts only on what is there at both.
    let is_pressed = false;
    let is_outdated = false;
    const draw_when_released = () => {
      is_outdated = is_pressed;
      if (!is_pressed) draw();
    };
    const release = () => {
      is_pressed = false;
      if (is_outdated) draw_when_released();
    };
    root.addEventListener("pointerdown", () => {
      is_pressed = true;
      const released = new AbortController();
      const after_the_click = () => {
        released.abort();
        setTimeout(release);
      };
      ["pointerup", "pointercancel"].forEach((end) => addEventListener(end, after_the_click, { signal: released.signal, capture: true }));
    });

    model.on("change:rows change:columns change:note change:sort", draw_when_released);
    model.on("change:picked", show_picked);
    draw();
  },
};
