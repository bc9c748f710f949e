// A call that never ends by itself and, when it is told to by a line, one after it; prints one line
// of JSON for each progress event and each end. Arguments: URL, MODE, PATIENCE (seconds).

import { once } from 'node:events';

const patience = Number(process.argv[4]) * 1000;
const say = (line) => console.log(JSON.stringify(line));

async function call(callTool, name, n) {
  const began = Date.now();
  const line = { ended: name, result: '', error: '' };
  const options = { onprogress: ({ progress }) => say({ progress, of: name }), timeout: patience };
  try {
    const result = await callTool({ name: 'count', arguments: { n, delay: 0.05 } }, options);
    line[result.isError ? 'error' : 'result'] = result.content[0].text;
  } catch (error) {
    line.error = String(error);
  }
  say({ ...line, seconds: (Date.now() - began) / 1000 });
}

/** Both calls, in one session; ends the process. */
export async function killed(callTool) {
  await call(callTool, 'first', 100000);
  await once(process.stdin, 'data');
  await call(callTool, 'second', 3);
  process.exit(0);
}
