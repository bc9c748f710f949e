// Makes calls of the tool `count`, several at a time, and prints what each of them saw as one
// line of JSON. Arguments: URL, MODE, CALLS, PARALLEL, EVENTS, DELAY (seconds), TIMEOUT (seconds).

const [url, mode, ...numbers] = process.argv.slice(2);
const [calls, parallel, events, delay, timeout] = numbers.map(Number);

export const target = new URL(url);
export const versionMode = mode;

async function call(callTool, number) {
  const seen = { call: number, progress: [], result: null, error: null };
  const arguments_ = { n: events, delay };
  const options = { onprogress: ({ progress }) => seen.progress.push(progress), timeout: timeout * 1000 };
  try {
    const result = await callTool({ name: 'count', arguments: arguments_ }, options);
    seen.result = result.content[0].text;
  } catch (error) {
    seen.error = String(error);
  }
  return seen;
}

/** Calls through `callTool(params, options)`; ends the process. */
export async function report(callTool, protocolVersion) {
  let next = 0;
  const worker = async () => {
    while (next < calls) {
      const seen = await call(callTool, next++);
      console.log(JSON.stringify({ ...seen, version: protocolVersion() }));
    }
  };
  await Promise.all(Array.from({ length: parallel }, worker));
  process.exit(0);
}
