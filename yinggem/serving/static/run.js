// The curve and the settings of the run.

const SIZE = { width: 290, height: 150, left: 30, bottom: 16, top: 12 };
const svg = (kind, attributes, text = "") => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", kind);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = text;
  return made;
};

export function showRun(told) {
  const facts = [];
  if (told.step) facts.push(`step ${told.step.toLocaleString("en")}`);
  if (told.parameters) facts.push(`${told.parameters.toLocaleString("en")} weights`, `${told.tokenizer}, ${told.vocabulary} tokens`, told.engine);
  document.getElementById("model").textContent = [told.name, ...facts].join(" · ");
  document.getElementById("words").textContent = told.settings.join("\n");
  const curves = Object.entries(told.curves).filter(([, points]) => points.length > 1);
  const place = document.getElementById("curve");
  document.getElementById("facts").textContent = curves.length ? "" : "There is no curve of this checkpoint.";
  place.replaceChildren(...(curves.length ? [draw(curves)] : []));
}

function draw(curves) {
  const all = curves.flatMap(([, points]) => points), steps = all.map(([step]) => step);
  const values = all.map(([, value]) => value);
  const [low, high] = [Math.min(...values), Math.max(...values)], last = Math.max(...steps, 1);
  const x = (step) => SIZE.left + (step / last) * (SIZE.width - SIZE.left - 4);
  const y = (value) => SIZE.top + ((high - value) / (high - low || 1)) * (SIZE.height - SIZE.top - SIZE.bottom);
  const title = curves.map(([name]) => name).join(", ");
  const picture = svg("svg", { viewBox: `0 0 ${SIZE.width} ${SIZE.height}`, role: "img", "aria-label": `Curves: ${title}` });
  for (const value of [low, (low + high) / 2, high]) {
    picture.append(svg("line", { x1: SIZE.left, x2: SIZE.width, y1: y(value), y2: y(value) }));
    picture.append(svg("text", { x: 0, y: y(value) + 3 }, value.toFixed(2)));
  }
  picture.append(svg("text", { x: SIZE.width - 60, y: SIZE.height - 2 }, `step ${last}`));
  curves.forEach(([name, points], k) => {
    picture.append(svg("polyline", { class: `c${k}`, points: points.map(([s, v]) => `${x(s)},${y(v)}`).join(" ") }));
    picture.append(svg("text", { class: `t${k}`, x: SIZE.left + 4 + 82 * k, y: SIZE.height - 2 }, name));
  });
  return picture;
}
