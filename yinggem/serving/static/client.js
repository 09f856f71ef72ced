// Requests to the server. What it sends is data: nothing of it is ever HTML.

export class Refused extends Error {
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

// Tokens with their places in a text that begins at `start` (UTF-16): the server counts characters. Tokens that are
// parts of one character are one here.
export class Places {
  constructor(start) {
    this.ends = [start]; // of every character, after the first
    this.tokens = [];
  }

  push(text, logprobs) {
    for (const character of text) this.ends.push(this.ends.at(-1) + character.length);
    logprobs?.tokens.forEach((name, k) => {
      const place = this.ends[logprobs.text_offset[k]] ?? this.ends.at(-1);
      const last = this.tokens.at(-1), logprob = logprobs.token_logprobs[k];
      if (last && last.start === place) {
        last.logprob = last.logprob === null || logprob === null ? null : last.logprob + logprob;
      } else {
        this.tokens.push({ start: place, name, logprob, top: logprobs.top_logprobs[k] });
      }
    });
    this.tokens.forEach((token, k) => { token.end = this.tokens[k + 1]?.start ?? this.ends.at(-1); });
    return this.tokens;
  }
}
