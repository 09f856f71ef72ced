// Pages about how the model reads a text: what each head looks at, and what surprised it.

import { make as ask } from "/backend.js";

const PAGES = { attention: "what each head looks at", surprise: "what surprised it" };

// Links to the pages of a text, in the order in which they are made; what cannot be made is said in its place.
export async function readings(text, signal, show) {
  for (const [page, name] of Object.entries(PAGES)) {
    try {
      const { path } = await ask("/reading", { prompt: text, page }, signal);
      const link = document.createElement("a");
      Object.assign(link, { href: path, target: "_blank", rel: "noopener", textContent: `How it reads: ${name}` });
      show(link);
    } catch (error) {
      if (error.status !== 400) throw error;
      show(document.createTextNode(error.message));
    }
  }
}
