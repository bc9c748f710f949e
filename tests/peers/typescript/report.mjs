// Makes calls of a tool, several at a time, and prints what each of them saw as one line of JSON.
// Arguments: URL, MODE, CALLS, PARALLEL, TIMEOUT (seconds), and what to call, as JSON.

const [url, mode, ...numbers] = process.argv.slice(2, 7);
const [calls, parallel, timeout] = numbers.map(Number);
const called = JSON.parse(process.argv[7] ?? '{}');

export const target = new URL(url);
export const versionMode = mode;

async function call(callTool, number) {
  const seen = { call: number, progress: [], result: null, error: null };
  const options = { onprogress: ({ progress }) => seen.progress.push(progress), timeout: timeout * 1000 };
  try {
    const result = await callTool(called, options);
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
