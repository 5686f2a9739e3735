"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const [width, height] = data.size, rows = data.static.length, columns = data.transient.length;
const at = id => document.getElementById(id);
const state = { content: 0, motion: 0, frame: 0, playing: !matchMedia("(prefers-reduced-motion: reduce)").matches };
const strips = new Map();

function strip(uri) {
  if (!strips.has(uri)) {
    const picture = new Image();
    picture.onload = draw;
    picture.src = uri;
    strips.set(uri, picture);
  }
  return strips.get(uri);
}

function paint(canvas, uri) {
  if (canvas.width !== width) { canvas.width = width; canvas.height = height; }
  const picture = strip(uri);
  if (picture.complete && picture.naturalWidth)
    canvas.getContext("2d").drawImage(picture, state.frame * width, 0, width, height, 0, 0, width, height);
}

function element(name, parent, attributes = {}, text = "") {
  const svg = parent.namespaceURI && parent.namespaceURI.endsWith("svg") || name === "svg";
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  parent.append(made);
  return made;
}

function draw() {
  const pair = state.content * columns + state.motion, footage = data.footage[pair];
  paint(at("big"), data.films[pair]);
  at("real").style.visibility = footage ? "visible" : "hidden";
  if (footage) paint(at("truth"), footage.film);
  at("frame").value = state.frame + 1;
  at("number").textContent = `${state.frame + 1} of ${data.frames}`;
  cells.forEach((cell, index) => paint(cell.firstChild, data.films[index]));
}

function choose(content, motion) {
  state.content = (content + rows) % rows;
  state.motion = (motion + columns) % columns;
  at("content").value = state.content;
  at("motion").value = state.motion;
  const pair = state.content * columns + state.motion, footage = data.footage[pair];
  at("truth-name").textContent = footage ? `footage: ${footage.name}` : "";
  at("told").textContent = footage ? "trained on" : "not a training video";
  cells.forEach((cell, index) => cell.setAttribute("aria-pressed", index === pair));
  for (const [table, chosen] of [["static", state.content], ["transient", state.motion]])
    for (const group of at(table).querySelectorAll("g.shown"))
      group.classList.toggle("chosen", Number(group.dataset.at) === chosen);
  draw();
}

function menu(id, names) {
  names.forEach((name, index) => element("option", at(id), { value: index }, name));
  at(id).onchange = () => choose(Number(at("content").value), Number(at("motion").value));
}

function wall() {
  at("wall").style.gridTemplateColumns = `auto repeat(${columns}, auto)`;
  element("span", at("wall"));
  data.transient.forEach(name => element("span", at("wall"), { class: "head", title: name }, name));
  const made = [];
  data.static.forEach((name, content) => {
    element("span", at("wall"), { title: name }, name);
    data.transient.forEach((motion, column) => {
      const cell = element("button", at("wall"), { type: "button", title: `${name} × ${motion}`, "aria-pressed": false });
      if (data.footage[made.length]) cell.classList.add("trained");
      element("canvas", cell);
      cell.onclick = () => choose(content, column);
      made.push(cell);
    });
  });
  return made;
}

function plane(table, pick) {
  const found = data.planes[table], points = found.rows.flatMap(row => row.path);
  const span = axis => { const all = points.map(p => p[axis]); const low = Math.min(...all), high = Math.max(...all); return [low, high - low || 1]; };
  const [x, y] = [span(0), span(1)];
  const place = p => [20 + 380 * (p[0] - x[0]) / x[1], 280 - 260 * (p[1] - y[0]) / y[1]];
  const svg = element("svg", at(table), { viewBox: "0 0 420 300", role: "img", "aria-label": `principal plane of ${table} rows` });
  for (const row of found.rows) {
    const group = element("g", svg, row.at < 0 ? {} : { class: "shown", "data-at": row.at });
    const path = row.path.map(place);
    if (path.length > 1) element("polyline", group, { class: "path", points: path.map(p => p.join()).join(" ") });
    const [cx, cy] = path[0];
    const dot = element("circle", group, { cx, cy, r: row.at < 0 ? 2.5 : 5 });
    element("title", dot, {}, row.name);
    if (row.at >= 0) group.onclick = () => pick(row.at);
  }
  const told = found.shares.map(share => `${(100 * share).toFixed(0)} %`).join(" and ");
  at(`${table}-told`).textContent = `PCA of ${found.rows.length} rows' codes; the two directions hold ${told} of the variance.` + (table === "transient" ? " A line is a motion through time, its dot the first frame." : "") + " Large dots can be clicked.";
}

function energy() {
  const svg = element("svg", at("energy"), { viewBox: "0 0 420 300", role: "img", "aria-label": "energy by rank" });
  const most = Math.max(...Object.values(data.energy).map(shares => shares.length), 2);
  const place = (rank, share) => [40 + 370 * Math.log(rank) / Math.log(most), 270 - 250 * share];
  for (const share of [0, 0.5, 0.9, 1]) {
    const [, y] = place(1, share);
    element("line", svg, { class: "axis", x1: 40, x2: 410, y1: y, y2: y });
    element("text", svg, { x: 34, y: y + 4, "text-anchor": "end" }, `${100 * share} %`);
  }
  for (const rank of [1, 2, 5, 10, 20, 50, 100, 200, 500].filter(rank => rank <= most)) {
    const [x] = place(rank, 0);
    element("text", svg, { x, y: 290, "text-anchor": "middle" }, rank);
  }
  for (const [name, shares] of Object.entries(data.energy))
    element("polyline", svg, { class: name, points: shares.map((share, index) => place(index + 1, share).join()).join(" ") });
}

menu("content", data.static);
menu("motion", data.transient);
const cells = wall();
plane("static", row => choose(row, state.motion));
plane("transient", row => choose(state.content, row));
energy();
at("frame").max = data.frames;
const played = playing => { state.playing = playing; at("play").textContent = playing ? "pause" : "play"; };
at("frame").oninput = () => { played(false); state.frame = Number(at("frame").value) - 1; draw(); };
at("play").onclick = () => played(!state.playing);
const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
at("wall").onkeydown = event => {
  const move = moves[event.key];
  if (!move) return;
  event.preventDefault();
  choose(state.content + move[0], state.motion + move[1]);
  cells[state.content * columns + state.motion].focus();
};
played(state.playing);
choose(0, 0);
setInterval(() => { if (state.playing) { state.frame = (state.frame + 1) % data.frames; draw(); } }, 125);
