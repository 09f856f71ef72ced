// The settings: a slider for every one, twice where two are compared.

import { key } from "/backend.js";

export class Panel {
  constructor(element) {
    Object.assign(this, { element, side: "a", sliders: [], values: { a: {}, b: {} }, inputs: new Map() });
  }

  build(sliders) {
    let kept = {};
    try {
      kept = JSON.parse(localStorage.getItem(key("settings")) ?? "{}");
    } catch { /* another version's, or there is no store */ }
    this.sliders = sliders;
    for (const side of ["a", "b"]) {
      for (const { name, value } of sliders) this.values[side][name] = Number(kept[side]?.[name] ?? value);
    }
    this.element.replaceChildren(...sliders.map((slider) => this.row(slider)));
    this.show(this.side);
  }

  row({ name, meaning, low, high, step, value }) {
    const row = document.createElement("div"), label = document.createElement("label");
    const number = document.createElement("input"), range = document.createElement("input");
    const small = document.createElement("small");
    row.className = "slider";
    label.textContent = name.replaceAll("_", " ");
    label.htmlFor = range.id = `slider-${name}`;
    small.textContent = `${meaning} (${value})`;
    Object.assign(range, { type: "range", min: low, max: high, step });
    Object.assign(number, { type: "number", min: 0, step: "any", ariaLabel: label.textContent });
    const take = (from, other) => from.addEventListener("input", () => {
      if (from.value === "" || !Number.isFinite(from.valueAsNumber)) return;
      other.value = from.value;
      this.values[this.side][name] = from.valueAsNumber;
      try {
        localStorage.setItem(key("settings"), JSON.stringify(this.values));
      } catch { /* then they are not kept */ }
    });
    take(range, number);
    take(number, range);
    this.inputs.set(name, [range, number]);
    row.append(label, number, range, small);
    return row;
  }

  show(side) {
    this.side = side;
    for (const [name, inputs] of this.inputs) for (const input of inputs) input.value = this.values[side][name];
  }

  // As fields of a request.
  fields(side) {
    const fields = { ...this.values[side] };
    if (!fields.max_copy) delete fields.max_copy;
    for (const name of ["top_k", "repetition_window", "no_repeat_ngram_size", "max_tokens", "max_copy"]) {
      if (name in fields) fields[name] = Math.round(fields[name]);
    }
    const window = this.sliders.find(({ name }) => name === "repetition_window");
    if (window && fields.repetition_window >= window.high) delete fields.repetition_window; // its end is everything
    return fields;
  }
}
