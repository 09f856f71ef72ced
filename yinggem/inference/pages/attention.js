"use strict";
// Everything of the text is data: it becomes textContent, never HTML.
const $ = (id) => document.getElementById(id);
const { tokens, layers, heads, window: seen, distances } = JSON.parse($("told").textContent);
const length = tokens.length, TINT = [224, 92, 32], SMALL = 64, LISTED = 8;
const first = (token) => Math.max(0, token - seen + 1); // the earliest that it sees
const starts = [0]; // where the weights of a token begin among those of its head
for (let token = 0; token < length; token++) starts.push(starts[token] + token + 1 - first(token));
const chosen = { layer: 0, head: 0, token: length - 1 };
let bytes; // 255 times the square root of each weight, as attention_page.py has them

const byte = (layer, head, query, key) => key > query || key < first(query) ? 0
  : bytes[(layer * heads + head) * starts[length] + starts[query] + key - first(query)];
const weight = (query, key) => (byte(chosen.layer, chosen.head, query, key) / 255) ** 2;
const visible = (name) => name.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replace(/^ | $/g, "␣") || "∅";

function make(kind, text = "") {
  const made = document.createElement(kind);
  made.textContent = text;
  return made;
}

// A map of at most `most` pixels a side: where several weights share a pixel, the largest is shown.
function draw(canvas, layer, head, most) {
  const side = canvas.width = canvas.height = Math.min(length, most), scale = side / length;
  const context = canvas.getContext("2d"), image = context.createImageData(side, side), { data } = image;
  for (let query = 0; query < length; query++) {
    const row = Math.floor(query * scale) * side;
    for (let key = first(query); key <= query; key++) {
      const place = 4 * (row + Math.floor(key * scale)), value = byte(layer, head, query, key);
      if (value >= data[place + 3]) data.set([...TINT, value], place);
    }
  }
  context.putImageData(image, 0, 0);
}

// The others that the chosen token looks at, or that look at it, with their weights.
function related() {
  const all = tokens.map((_, other) => $("back").checked ? weight(other, chosen.token) : weight(chosen.token, other));
  return { all, most: Math.max(...all) };
}

function showToken() {
  const { all, most } = related(), spans = $("text").children;
  for (let other = 0; other < length; other++) {
    spans[other].style.backgroundColor = `rgb(${TINT.join(" ")} / ${most ? 0.75 * Math.sqrt(all[other] / most) : 0})`;
    spans[other].setAttribute("aria-selected", String(other === chosen.token));
  }
  $("text").setAttribute("aria-activedescendant", spans[chosen.token].id);
  const line = make("p", $("back").checked ? " is looked at by" : " looks at"), table = make("table");
  line.prepend(make("b", visible(tokens[chosen.token])), ` (token ${chosen.token + 1})`);
  const order = all.map((_, other) => other).sort((a, b) => all[b] - all[a]).slice(0, LISTED).filter((other) => all[other] > 0);
  for (const other of order) {
    const row = table.insertRow(), back = Math.abs(chosen.token - other);
    const where = back ? `${back} ${$("back").checked ? "on" : "back"}` : "itself";
    for (const text of [visible(tokens[other]), `${(100 * all[other]).toFixed(1)} %`, where]) row.insertCell().textContent = text;
  }
  $("details").replaceChildren(line, table);
  mark();
}

// The map of the chosen head, with the chosen token's row marked.
function mark() {
  const canvas = $("map");
  draw(canvas, chosen.layer, chosen.head, length);
  const context = canvas.getContext("2d");
  context.fillStyle = "rgb(64 140 200 / .35)";
  if ($("back").checked) context.fillRect(chosen.token, 0, 1, length);
  else context.fillRect(0, chosen.token, length, 1);
}

function show() {
  $("layer").value = chosen.layer;
  $("head").value = chosen.head;
  [...$("heads").children].forEach((button, index) => {
    const here = index === chosen.layer * heads + chosen.head;
    button.setAttribute("aria-checked", String(here));
    button.tabIndex = here ? 0 : -1;
  });
  $("map").setAttribute("aria-label", `Attention map of layer ${chosen.layer + 1}, head ${chosen.head + 1}`);
  showToken();
}

function chooseHead(index) {
  const place = (index + layers * heads) % (layers * heads);
  Object.assign(chosen, { layer: Math.floor(place / heads), head: place % heads });
  show();
}

function chooseToken(token) {
  chosen.token = Math.min(length - 1, Math.max(0, token));
  showToken();
}

function buildText() {
  $("text").append(...tokens.map((name, token) => {
    const span = make("span");
    Object.assign(span, { id: `token${token}`, role: "option" });
    span.dataset.token = token;
    if (/^(bytes:|<end>$|$)/.test(name)) span.append(make("i", name === "<end>" ? "∅" : "�"));
    else name.split("\n").forEach((part, line) => span.append(...(line ? [make("i", "⏎"), "\n"] : []), part));
    return span;
  }));
}

function buildHeads() {
  $("heads").style.gridTemplateColumns = `repeat(${heads}, minmax(1.35rem, 7rem))`;
  for (let index = 0; index < layers * heads; index++) {
    const [layer, head] = [Math.floor(index / heads), index % heads], button = make("button"), canvas = make("canvas");
    draw(canvas, layer, head, SMALL);
    button.append(canvas, distances[layer][head].toFixed(distances[layer][head] < 9.95 ? 1 : 0));
    button.setAttribute("role", "radio");
    button.ariaLabel = button.title = `Layer ${layer + 1}, head ${head + 1}: ${distances[layer][head]} tokens back on average`;
    button.addEventListener("click", () => chooseHead(index));
    $("heads").append(button);
  }
}

const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
function listen() {
  $("text").addEventListener("mouseover", ({ target }) => {
    const span = target.closest("[data-token]");
    if (span) chooseToken(Number(span.dataset.token));
  });
  $("text").addEventListener("click", ({ target }) => {
    const span = target.closest("[data-token]");
    if (span) chooseToken(Number(span.dataset.token));
  });
  $("text").addEventListener("keydown", (event) => {
    const step = STEPS[event.key] ?? { Home: [-length, 0], End: [length, 0] }[event.key];
    if (!step) return;
    event.preventDefault();
    chosen.token = Math.min(length - 1, Math.max(0, chosen.token + step[0]));
    chooseHead(chosen.layer * heads + chosen.head + step[1]);
    $("text").children[chosen.token].scrollIntoView({ block: "nearest" });
  });
  $("heads").addEventListener("keydown", (event) => {
    const step = STEPS[event.key];
    if (!step) return;
    event.preventDefault();
    chooseHead(chosen.layer * heads + chosen.head + step[0] + heads * step[1]);
    $("heads").children[chosen.layer * heads + chosen.head].focus();
  });
  for (const name of ["layer", "head"]) {
    const count = { layer: layers, head: heads }[name];
    for (let index = 0; index < count; index++) $(name).append(new Option(index + 1, index));
    $(name).addEventListener("change", () => { chosen[name] = Number($(name).value); show(); });
  }
  $("back").addEventListener("change", showToken);
  $("map").addEventListener("click", (event) => {
    const along = $("back").checked ? event.offsetX / $("map").clientWidth : event.offsetY / $("map").clientHeight;
    chooseToken(Math.floor(along * length));
  });
}

async function start() {
  const packed = Uint8Array.from(atob(JSON.parse($("weights").textContent)), (character) => character.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  $("about").textContent = `${length} tokens, ${layers} layers of ${heads} heads; a token sees `
    + (seen < length ? `the last ${seen}, itself included.` : "all before it, and itself.");
  buildText();
  buildHeads();
  listen();
  show();
}

start().catch((error) => { $("about").textContent = `This page cannot be shown: ${error.message}.`; });
