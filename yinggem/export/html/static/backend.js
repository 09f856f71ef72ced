// What the page asks, answered by the model in this file: the same functions as the server's backend.js.

let worker = null, ready = null, numbers = 0;
const requests = new Map(); // number -> what to call

// Under which name the browser keeps something: files that are opened from a disk share one store.
export const key = (name) => `${document.documentElement.dataset.model} ${name}`;

// Begin the thread and hand it the model, part by part.
export async function open(tell) {
  tell("Reading the file ...");
  if (document.readyState === "loading") await new Promise((done) => { addEventListener("DOMContentLoaded", done); });
  const code = document.getElementById("worker").textContent, parts = [...document.querySelectorAll("script.part"), null];
  worker = new Worker(URL.createObjectURL(new Blob([code], { type: "text/javascript" })));
  const heard = new Promise((done, fail) => {
    worker.onerror = (event) => fail(new Error(`The model cannot run in this browser: ${event.message ?? "it is too old"}`));
    worker.onmessage = ({ data }) => {
      if (data.taken) next();
      else if (data.failed) fail(new Error(data.failed));
      else if (data.share !== undefined) tell(`Opening the model: ${Math.floor(100 * data.share)} % ...`);
      else if (data.ready) done(data.ready);
      else requests.get(data.number)?.(data);
    };
  });
  function next() {
    const part = parts.shift();
    if (part === undefined) return;
    worker.postMessage({ part: part && part.textContent });
    part?.remove(); // its text is not needed twice
  }
  next();
  ready = await heard;
  tell("");
}

export const get = async (path) => ({ "/settings": ready.settings, "/run": ready.run })[path];

export const make = null; // pages of how it reads: there is no torch here

// Calls hear(choice) for every piece of every text, until all have ended.
export async function stream(content, signal, hear) {
  if (!ready) throw new Error("The model could not be opened; load this page again.");
  const number = ++numbers;
  return new Promise((done, fail) => {
    const stop = () => worker.postMessage({ stop: number });
    const ended = (error) => {
      requests.delete(number);
      signal.removeEventListener("abort", stop);
      if (signal.aborted) fail(new DOMException("Stopped.", "AbortError"));
      else if (error) fail(new Error(error));
      else done();
    };
    requests.set(number, ({ choices, done: last, error }) => (last ? ended(error) : choices.forEach(hear)));
    signal.addEventListener("abort", stop);
    worker.postMessage({ number, content });
  });
}

export async function complete(content, signal) {
  const choices = [];
  await stream(content, signal, (choice) => choices.push(choice));
  return { choices };
}
