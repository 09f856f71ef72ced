// What the page asks, answered by the server. What it sends is data: nothing of it is ever HTML. A page that is exported
// has another file in the place of this one, with the same functions.

class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

const headers = () => {
  const key = sessionStorage.getItem("key");
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
};

async function answer(path, options) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: headers() });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The server does not answer; is it still running?");
  }
  if (response.ok) return response;
  let message = `The server answered ${response.status}.`;
  try {
    message = (await response.json()).error.message;
  } catch { /* no JSON: the status has to do */ }
  throw new Refused(response.status, message);
}

// Under which name the browser keeps something.
export const key = (name) => name;

// Be ready to answer; tell(text) says how far that is.
export const open = async () => {};

export const get = async (path) => (await answer(path, {})).json();

export async function make(path, content, signal) {
  return (await answer(path, { method: "POST", body: JSON.stringify(content), signal })).json();
}

export const complete = (content, signal) => make("/v1/completions", content, signal);

// Calls hear(choice) for every piece of every text, until all have ended.
export async function stream(content, signal, hear) {
  const body = JSON.stringify({ ...content, stream: true });
  const response = await answer("/v1/completions", { method: "POST", body, signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let held = ""; ;) {
    const { value, done } = await reader.read();
    if (done) throw new Refused(0, "The server stopped in the middle of the text.");
    const events = (held + value).split("\n\n");
    held = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Refused(500, chunk.error.message);
      chunk.choices.forEach(hear);
    }
  }
}
