// node page_in_node.js FILE.html < requests: the worker of an exported page, without a browser.
// One JSON array of requests comes in, one of answers goes out: {choices: joined} or {error}.

const { readFileSync } = require("fs");

const html = readFileSync(process.argv[2], "utf8");
const blocks = (pattern) => [...html.matchAll(pattern)].map((found) => found[1]);
const parts = [...blocks(/<script type="text\/plain" class="part">([^<]*)<\/script>/g), null];
const [code] = blocks(/<script type="text\/plain" id="worker">([^]*?)<\/script>/g);
const requests = JSON.parse(readFileSync(0, "utf8")), answers = requests.map(() => []);
const began = performance.now();
let left = requests.length, opened = 0, before;

globalThis.onmessage = null;
globalThis.postMessage = (data) => {
  if (data.taken && parts.length) onmessage({ data: { part: parts.shift() } });
  if (data.failed) finish({ failed: data.failed });
  if (data.ready) {
    opened = performance.now();
    before = process.cpuUsage();
    requests.forEach((content, number) => onmessage({ data: { number, content } }));
    if (!left) finish({ ready: data.ready });
  }
  if (data.choices) answers[data.number].push(...data.choices);
  if (data.error) answers[data.number] = { error: data.error };
  if (data.done && !--left) finish({ answers, opening: (opened - began) / 1000, seconds: (performance.now() - opened) / 1000 });
};

function finish(told) {
  const { user, system } = process.cpuUsage(before);
  process.stdout.write(JSON.stringify({ ...told, cpu: (user + system) / 1e6 }), () => process.exit());
}

(0, eval)(code);
onmessage({ data: { part: parts.shift() } });
