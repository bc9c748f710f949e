// One client of tests.peers.mixed: makes the calls that it reads from its standard input (a line of
// JSON), a few at a time, and prints what each of them saw as one line of JSON.

import { once } from 'node:events';

const atOnce = 3;
const patience = 60000;

/** What a client answers to questions of the server. */
export const answers = {
  elicit: ({ params }) => ({
    action: 'accept',
    content: { nonce: params.message.split(' ').at(-1) },
  }),
  sample: ({ params }) => ({
    role: 'assistant',
    model: 'none',
    content: { type: 'text', text: [params.messages[0].content].flat()[0].text },
  }),
};

const settle = async (seen, made) => {
  for (let n = 0; n < 40 && seen.length < made.expected; n++) {
    await new Promise((done) => setTimeout(done, 50));
  }
};

async function call(callTool, made) {
  const line = { nonce: made.nonce, progress: [], told: {}, error: '' };
  const cancelling = new AbortController();
  const params = { nonce: made.nonce };
  if (made.expected && made.tool !== 'wait') params.n = made.expected;
  if (made.tool === 'work') params.delay = made.delay;
  const onprogress = ({ progress }) => {
    line.progress.push(progress);
    if (made.tool === 'wait') cancelling.abort('enough');
  };
  const options = { onprogress, timeout: patience, signal: cancelling.signal };
  try {
    const result = await callTool({ name: made.tool, arguments: params }, options);
    line.told = JSON.parse(result.content[0].text);
    await settle(line.progress, made);
  } catch (error) {
    if (!cancelling.signal.aborted) line.error = String(error);
  }
  console.log(JSON.stringify(line));
}

/** All calls, then the last one alone; ends the process. */
export async function mixed(callTool) {
  process.stdin.setEncoding('utf8');
  let given = '';
  while (!given.endsWith('\n')) given += (await once(process.stdin, 'data'))[0];
  const made = JSON.parse(given);
  const last = made.pop();
  let next = 0;
  const worker = async () => {
    while (next < made.length) await call(callTool, made[next++]);
  };
  await Promise.all(Array.from({ length: atOnce }, worker));
  await call(callTool, last);
  process.exit(0);
}
