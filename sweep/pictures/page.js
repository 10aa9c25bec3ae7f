"use strict";
// Draws the pictures and the table of a report. What comes from the record is set as text only.

const GLYPHS = {
  circle: "●", square: "■", diamond: "◆", "triangle-up": "▲", "triangle-down": "▼", pentagon: "⬟",
  star: "★", hexagon: "⬢", cross: "✚", x: "✖", "circle-open": "○", "square-open": "□",
  "diamond-open": "◇", "triangle-up-open": "△", "triangle-down-open": "▽", "pentagon-open": "⬠",
  "star-open": "☆", "hexagon-open": "⬡", "cross-open": "✛", "square-x": "⊠",
};
const ROWS = 100;

const made = (tag, text, attributes = {}) => {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
};

async function inflated(id) {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), c => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).text();
}

// ---- pictures

const PRINTED = { ink: "#000", line: "#bbb", soft: "#f3f5f7", paper: "#fff" };  // as page.css has them
let printing = false;  // until the styles are those of paper it is too late to paint

function themed() {
  if (printing) return PRINTED;
  const style = getComputedStyle(document.documentElement);
  const colour = name => style.getPropertyValue(name).trim();
  return { ink: colour("--ink"), line: colour("--line"), soft: colour("--soft"), paper: colour("--paper") };
}

function painted(layout) {
  const { ink, line, soft, paper } = themed();
  const axes = {};
  for (const note of layout.annotations || []) if (note.bgcolor) note.bgcolor = paper;
  for (const key of Object.keys(layout).filter(name => /^[xy]axis/.test(name))) {
    axes[key] = { gridcolor: line, zeroline: false, linecolor: line, automargin: true, ...layout[key] };
  }
  return {
    margin: { l: 60, r: 25, t: 25, b: 50 }, hovermode: "closest", dragmode: "zoom", showlegend: false,
    ...layout, ...axes,
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: ink, size: 13, family: "system-ui, sans-serif" },
    hoverlabel: { bgcolor: soft, bordercolor: line, font: { color: ink }, align: "left" },
  };
}

function draw(picture) {
  const plot = document.getElementById(picture.key);
  if (!plot || plot.drawn) return;
  plot.drawn = true;
  if (picture.layout.height) plot.style.height = `${picture.layout.height}px`;
  const name = `${document.title.replace(/[^\w.-]+/g, "-")}-${picture.key}`;
  Plotly.newPlot(plot, picture.traces, painted(structuredClone(picture.layout)), {
    displaylogo: false, responsive: true, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
    toImageButtonOptions: { format: "svg", filename: name },
  });
  const bar = plot.previousElementSibling;
  switches(bar, plot, picture);
  legend(bar, plot, picture.traces);
  keys(plot);
}

function switches(bar, plot, picture) {
  const labels = Object.keys(picture.switches);
  if (!labels.length) return;
  const group = made("span", undefined, { class: "switch", role: "group" });
  labels.forEach((label, number) => {
    const button = made("button", label, { "aria-pressed": String(number === 0) });
    button.onclick = () => {
      Plotly.relayout(plot, structuredClone(picture.switches[label]));
      for (const other of group.children) other.setAttribute("aria-pressed", String(other === button));
    };
    group.append(button);
  });
  bar.append(group, made("span", undefined, { class: "gap" }));
}

function legend(bar, plot, traces) {
  const groups = new Map();
  traces.forEach((trace, number) => {
    const key = trace.legendgroup || trace.name;
    if (!groups.has(key)) groups.set(key, { members: [], shown: null });
    groups.get(key).members.push(number);
    if (trace.showlegend !== false && !groups.get(key).shown) groups.get(key).shown = trace;
  });
  for (const { members, shown } of groups.values()) {
    if (!shown) continue;
    const button = made("button", undefined, { "aria-pressed": "true", title: "show or hide" });
    const marker = shown.marker || {};
    const line = shown.mode && !shown.mode.includes("markers");
    const glyph = line ? "━" : GLYPHS[marker.symbol || (shown.type === "bar" ? "square" : "circle")];
    const sign = made("span", `${glyph} `, { "aria-hidden": "true" });
    sign.style.color = typeof marker.color === "string" ? marker.color : (shown.line || {}).color;
    button.append(sign, shown.name);
    button.onclick = () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(on));
      Plotly.restyle(plot, { visible: on }, members);
    };
    bar.append(button);
  }
}

function keys(plot) {
  let at = -1;
  const points = () => {
    const found = [];
    plot.data.forEach((trace, curveNumber) => {
      if (trace.visible === false || !trace.hovertext) return;
      trace.x.forEach((x, pointNumber) => {
        if (x !== null && trace.hovertext[pointNumber]) found.push({ curveNumber, pointNumber, x });
      });
    });
    return found.sort((a, b) => (a.x > b.x) - (a.x < b.x));
  };
  plot.addEventListener("keydown", event => {
    const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const zoom = { "+": 0.7, "=": 0.7, "-": 1 / 0.7 }[event.key];
    if (steps) {
      const all = points();
      if (!all.length) return;
      at = at < 0 ? (steps > 0 ? 0 : all.length - 1) : (at + steps + all.length) % all.length;
      const { curveNumber, pointNumber } = all[at];
      Plotly.Fx.hover(plot, [{ curveNumber, pointNumber }]);
      const text = plot.data[curveNumber].hovertext[pointNumber];
      plot.nextElementSibling.textContent = text.replaceAll("<br>", " · ")
        .replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&");
    } else if (zoom) {
      const change = {};
      for (const axis of ["xaxis", "yaxis"]) {
        const [low, high] = plot._fullLayout[axis].range;
        const middle = (low + high) / 2, half = (high - low) / 2 * zoom;
        change[`${axis}.range`] = [middle - half, middle + half];
      }
      Plotly.relayout(plot, change);
    } else if (event.key === "0") {
      Plotly.relayout(plot, painted(structuredClone(plot.original)));
      [...plot.previousElementSibling.querySelectorAll(".switch button")].forEach((button, number) =>
        button.setAttribute("aria-pressed", String(number === 0)));
    } else return;
    event.preventDefault();
  });
}

function repaint(pictures) {
  for (const picture of pictures) {
    const plot = document.getElementById(picture.key);
    if (!plot || !plot.drawn) continue;
    const { ink, line, soft, paper } = themed();
    const change = {
      "font.color": ink, "hoverlabel.bgcolor": soft, "hoverlabel.bordercolor": line, "hoverlabel.font.color": ink,
    };
    for (const key of Object.keys(plot.layout).filter(name => /^[xy]axis/.test(name))) {
      change[`${key}.gridcolor`] = change[`${key}.linecolor`] = line;
    }
    (plot.layout.annotations || []).forEach((note, number) => {
      if (note.bgcolor) change[`annotations[${number}].bgcolor`] = paper;
    });
    Plotly.relayout(plot, change);
  }
}

// ---- the table

function written(value, column) {
  if (value === null || value === undefined) return "";
  if (typeof value !== "number") return String(value);
  if (column.kind === "loss") return value.toFixed(4);
  if (Number.isInteger(value)) return column.kind === "step" ? value.toLocaleString("en") : String(value);
  return String(Number(value.toPrecision(4)));
}

function trialTable(table) {
  const columns = table.heads.map((name, number) => ({
    name, number, kind: number === 2 || number === 3 ? "loss" : name === "step" ? "step" : "",
    text: ["trial", "outcome", "reason"].includes(name),
  }));
  const width = table.heads.length;
  let sorted = { column: 0, down: false }, limit = ROWS;
  const words = table.rows.map(row =>
    row.slice(0, width).map((value, n) => written(value, columns[n])).join(" ").toLowerCase());
  const element = document.getElementById("trials"), search = document.getElementById("search");
  const more = document.getElementById("more"), body = made("tbody"), head = made("tr");
  for (const column of columns) {
    const cell = made("th", undefined, { scope: "col" });
    const button = made("button", column.name);
    if (column.text) cell.className = "text";
    button.onclick = () => {
      sorted = { column: column.number, down: sorted.column === column.number && !sorted.down };
      show();
    };
    cell.append(button);
    head.append(cell);
  }
  head.append(made("th", "", { scope: "col", "aria-label": "commands" }));
  const top = made("thead");
  top.append(head);
  element.replaceChildren(top, body);

  function show() {
    const wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const order = table.rows.map((_, n) => n).filter(n => wanted.every(word => words[n].includes(word)));
    const sign = sorted.down ? -1 : 1;
    order.sort((a, b) => {
      const x = table.rows[a][sorted.column], y = table.rows[b][sorted.column];
      if (x === y) return a - b;
      if (x === null) return 1;  // what is not known comes last, either way
      if (y === null) return -1;
      return (x < y ? -1 : 1) * sign;
    });
    [...head.children].forEach((cell, n) => {
      if (n === sorted.column) cell.setAttribute("aria-sort", sorted.down ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
      if (n < width) cell.firstChild.textContent =
        columns[n].name + (n === sorted.column ? (sorted.down ? " ▾" : " ▴") : "");
    });
    body.replaceChildren(...order.slice(0, limit).map(row));
    document.getElementById("found").textContent =
      `${order.length.toLocaleString("en")} of ${table.rows.length.toLocaleString("en")} trials`;
    more.hidden = order.length <= limit;
    more.textContent = `show all ${order.length.toLocaleString("en")}`;
  }

  function row(number) {
    const values = table.rows[number], line = made("tr");
    for (const column of columns) {
      const cell = made("td", written(values[column.number], column));
      if (column.text) cell.className = column.name === "reason" ? "text reason" : "text";
      line.append(cell);
    }
    const button = made("button", "commands", { "aria-expanded": "false" });
    button.onclick = () => {
      const open = button.getAttribute("aria-expanded") === "true";
      button.setAttribute("aria-expanded", String(!open));
      if (open) line.nextElementSibling.remove();
      else line.after(commands(values));
    };
    const cell = made("td");
    cell.append(button);
    line.append(cell);
    return line;
  }

  function commands(values) {
    const settings = values.slice(4, 4 + table.fields).map((value, n) => [table.flags[n], value])
      .filter(([, value]) => value !== null).map(([flag, value]) => `${flag} ${value}`).join(" ") + (table.own[values[1]] ?? "");
    const checkpoint = values[width];
    const cell = made("td", undefined, { colspan: String(width + 1) });
    const told = [["train it again", `${table.replay} ${settings}`]];
    if (checkpoint) {
      told.push(["text from its checkpoint", `${table.use} ${checkpoint} --prompt "def "`]);
      told.push(["train on from its checkpoint", `${table.go_on} ${checkpoint} ${settings}`]);
    }
    for (const [what, command] of told) cell.append(made("span", what), made("code", command));
    if (!checkpoint) cell.append(made("span", "none of its checkpoints was kept"));
    const line = made("tr", undefined, { class: "commands" });
    line.append(cell);
    return line;
  }

  search.oninput = () => { limit = ROWS; show(); };
  more.onclick = () => { limit = Infinity; show(); };
  show();
}

// ---- all of it

async function main() {
  if (typeof DecompressionStream === "undefined") {
    throw new Error("this browser is too old for the pictures (it lacks DecompressionStream)");
  }
  const { pictures, table } = JSON.parse(await inflated("data"));
  if (table) trialTable(table);
  document.head.append(made("script", await inflated("library")));
  const drawn = new Map(pictures.map(picture => [picture.key, picture]));
  const watch = new IntersectionObserver(seen => {
    for (const { isIntersecting, target } of seen) if (isIntersecting) draw(drawn.get(target.id));
  }, { rootMargin: "800px" });
  for (const picture of pictures) {
    const plot = document.getElementById(picture.key);
    if (!plot) continue;
    plot.original = picture.layout;
    watch.observe(plot);
  }
  addEventListener("beforeprint", () => { printing = true; pictures.forEach(draw); repaint(pictures); });
  addEventListener("afterprint", () => { printing = false; repaint(pictures); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => repaint(pictures));
}

main().catch(error => {
  const trouble = document.getElementById("trouble");
  trouble.hidden = false;
  trouble.textContent = `The pictures cannot be drawn: ${error.message}`;
  console.error(error);
});
