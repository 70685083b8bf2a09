"use strict";
// Sortable, filterable tables with pages, and plots in the colours of the page. Texts are inserted as text, never as HTML.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const PAGE = 25;

  // ---------------------------------------------------------------------------------- tables

  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true }));

  function shown(value, numeric) {
    if (value === null || value === undefined) return "";
    if (typeof value !== "number") return String(value);
    if (!numeric || Number.isInteger(value)) return String(value);
    const size = Math.abs(value);
    return size !== 0 && (size < 1e-3 || size >= 1e6) ? value.toExponential(2) : String(Number(value.toPrecision(4)));
  }

  const TESTS = { ">": (a, b) => a > b, "<": (a, b) => a < b, ">=": (a, b) => a >= b, "<=": (a, b) => a <= b, "=": (a, b) => String(a) === String(b) };

  // "epochs>2 ema_decay=0.99 collapse": a row must match every word, in the named column or else in any column.
  function predicate(text, columns) {
    const words = text.trim().split(/\s+/).filter(Boolean).map((word) => {
      const match = /^(.+?)(>=|<=|>|<|=)(.+)$/.exec(word);
      const place = match ? columns.findIndex((column) => column.label.toLowerCase() === match[1].toLowerCase()) : -1;
      if (place < 0) {
        const sought = word.toLowerCase();
        return (row) => row.some((cell) => cell !== null && String(cell).toLowerCase().includes(sought));
      }
      const limit = Number(match[3]);
      const test = TESTS[match[2]];
      return (row) => row[place] !== null && (Number.isNaN(limit) ? String(row[place]).toLowerCase() === match[3].toLowerCase() : test(Number(row[place]), limit));
    });
    return (row) => words.every((holds) => holds(row));
  }

  function readerTable(root) {
    const { columns, rows } = data.tables[root.dataset.table];
    const find = (selector) => root.querySelector(selector);
    const [head, body] = [find("thead"), find("tbody")];
    const statusColumn = columns.findIndex((column) => column.label === "status");
    const state = { sort: null, down: false, page: 0, all: false };
    let visible = rows;

    function header() {
      const line = document.createElement("tr");
      columns.forEach((column, place) => {
        if (!column.main && !state.all) return;
        const cell = document.createElement("th");
        const button = document.createElement("button");
        cell.className = column.numeric ? "n" : "";
        cell.title = column.title || column.label;
        cell.setAttribute("aria-sort", state.sort === place ? (state.down ? "descending" : "ascending") : "none");
        button.textContent = column.label + (state.sort === place ? (state.down ? " ▼" : " ▲") : "");
        button.addEventListener("click", () => sortBy(place));
        cell.append(button);
        line.append(cell);
      });
      head.replaceChildren(line);
    }

    function sortBy(place) {
      if (state.sort === place && state.down) Object.assign(state, { sort: null, down: false });
      else Object.assign(state, { down: state.sort === place, sort: place });
      state.page = 0;
      update();
    }

    function update() {
      const status = find(".status") ? find(".status").value : "";
      const holds = predicate(find(".filter").value, columns);
      visible = rows.filter((row) => (!status || row[statusColumn] === status) && holds(row));
      if (state.sort !== null) {
        const sign = state.down ? -1 : 1; // empty cells come last in both directions
        visible = [...visible].sort((a, b) => {
          const [x, y] = [a[state.sort], b[state.sort]];
          if (x === null || y === null) return (x === null) - (y === null);
          return sign * compare(x, y);
        });
      }
      header();
      draw();
    }

    function draw(everything = false) {
      const from = everything ? 0 : state.page * PAGE;
      const cut = visible.slice(from, from + (everything ? 100 : PAGE));
      body.replaceChildren(...cut.map(rowOf));
      const pages = Math.max(1, Math.ceil(visible.length / PAGE));
      find(".count").textContent = `${visible.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")}`;
      find(".page").textContent = `page ${state.page + 1} of ${pages}`;
      find(".pages").hidden = pages === 1;
      find(".pages").style.display = pages === 1 ? "none" : "";
      find(".back").disabled = state.page === 0;
      find(".next").disabled = state.page >= pages - 1;
    }

    function rowOf(row) {
      const line = document.createElement("tr");
      if (statusColumn >= 0) line.className = row[statusColumn];
      columns.forEach((column, place) => {
        if (!column.main && !state.all) return;
        const cell = document.createElement("td");
        const text = shown(row[place], column.numeric);
        if (typeof row[place] === "number") cell.className = "n";
        else if (text.length > 40) Object.assign(cell, { className: "long", title: text });
        if (place === statusColumn) {
          const mark = document.createElement("span");
          mark.className = "mark";
          mark.textContent = "■ ";
          cell.append(mark);
        }
        cell.append(text);
        line.append(cell);
      });
      return line;
    }

    const turn = (by) => () => { state.page += by; draw(); };
    find(".back").addEventListener("click", turn(-1));
    find(".next").addEventListener("click", turn(1));
    find(".filter").addEventListener("input", () => { state.page = 0; update(); });
    if (find(".status")) find(".status").addEventListener("change", () => { state.page = 0; update(); });
    if (columns.some((column) => !column.main)) {
      find(".all-columns").hidden = false;
      find(".all").addEventListener("change", (event) => { state.all = event.target.checked; update(); });
    }
    window.addEventListener("beforeprint", () => draw(true)); // print up to 100 rows instead of one page
    window.addEventListener("afterprint", () => draw());
    update();
  }

  // ---------------------------------------------------------------------------------- plots

  function painted(value, colours) {
    if (typeof value === "string") return value.startsWith("var:") ? colours.getPropertyValue(`--${value.slice(4)}`).trim() : value;
    if (Array.isArray(value)) return value.map((item) => painted(item, colours));
    if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, painted(item, colours)]));
    return value;
  }

  function layoutOf(own, colours, narrow) {
    const colour = (name) => colours.getPropertyValue(`--${name}`).trim();
    const axis = { gridcolor: colour("line"), zerolinecolor: colour("line"), linecolor: colour("line"), automargin: true, fixedrange: narrow, exponentformat: "e" };
    return {
      height: 380,
      ...own,
      font: { family: "system-ui, sans-serif", size: 12, color: colour("ink") },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      margin: { l: 50, r: 16, t: 26, b: 44 },
      legend: { orientation: "h", y: -0.2, yanchor: "top", ...own.legend },
      hoverlabel: { bgcolor: colour("paper"), bordercolor: colour("line"), font: { color: colour("ink") }, align: "left" },
      xaxis: { ...axis, ...own.xaxis },
      yaxis: { ...axis, ...own.yaxis },
    };
  }

  function drawPlot(element) {
    const colours = getComputedStyle(document.documentElement);
    const narrow = window.innerWidth < 640;
    const figure = painted(data.plots[element.dataset.plot], colours);
    const layout = layoutOf(figure.layout, colours, narrow);
    const light = window.matchMedia("print").matches || !window.matchMedia("(prefers-color-scheme: dark)").matches;
    const scaled = figure.data[0].type === "parcoords" ? figure.data[0].line : figure.data[0];
    if ("reversescale" in scaled) scaled.reversescale = scaled.reversescale !== light; // the best values contrast with the background
    if (figure.data[0].type === "parcoords") {
      Object.assign(layout, { margin: { l: 60, r: 50, t: 60, b: 30 } });
      const line = colours.getPropertyValue("--ink").trim();
      Object.assign(figure.data[0], { labelfont: { color: line }, tickfont: { color: line }, rangefont: { color: "rgba(0,0,0,0)" } });
      if (!webgl()) {
        element.textContent = "This plot needs WebGL, which this browser does not support. The leaderboard shows the same values.";
        element.className = "empty";
        return Promise.resolve();
      }
    }
    return Plotly.react(element, figure.data, layout, { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["lasso2d", "select2d"], displayModeBar: narrow ? false : "hover" });
  }

  function webgl() {
    try {
      return Boolean(document.createElement("canvas").getContext("webgl"));
    } catch {
      return false;
    }
  }

  async function drawAll() {
    document.documentElement.dataset.drawn = "no";
    for (const element of document.querySelectorAll("[data-plot]")) {
      await drawPlot(element);
      await new Promise((resolve) => setTimeout(resolve)); // keeps the page responsive between plots
    }
    document.documentElement.dataset.drawn = "yes";
  }

  document.querySelectorAll("[data-table]").forEach(readerTable);
  drawAll();
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  window.addEventListener("beforeprint", () => {
    document.querySelectorAll("details").forEach((element) => { element.open = true; });
    document.querySelectorAll("[data-plot]").forEach(drawPlot);
  });
  window.addEventListener("afterprint", drawAll);
})();
