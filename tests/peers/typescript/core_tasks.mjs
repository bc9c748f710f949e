// Tasks of 2025-11-25 by the official SDK 1.x for TypeScript: called, observed, asked for input,
// listed, cancelled. Writes what it saw as one line of JSON.
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { CallToolResultSchema, ElicitRequestSchema } from '@modelcontextprotocol/sdk/types.js';

const capabilities = { elicitation: {} };
const client = new Client({ name: 'sdk1', version: '1' }, { capabilities });
client.setRequestHandler(ElicitRequestSchema, async () => ({
  action: 'accept',
  content: { name: 'ann' },
}));
await client.connect(new StreamableHTTPClientTransport(new URL(process.argv[2])));
await client.listTools();
const { tasks } = client.experimental;

async function called(name, args) {
  const kinds = [];
  for await (const message of tasks.callToolStream({ name, arguments: args }, CallToolResultSchema, {
    task: { ttl: 60_000 },
  })) {
    kinds.push(message.type === 'taskStatus' ? message.task.status : message.type);
    if (message.type === 'result') return { kinds, text: message.result.content[0].text };
    if (message.type === 'error') return { kinds, error: message.error.message };
  }
  return { kinds };
}

const count = await called('count', { n: 8, delay: 0.1 });
const ask = await called('ask', {});
const stream = tasks.callToolStream({ name: 'count', arguments: { n: 1000, delay: 0.1 } }, CallToolResultSchema, { task: {} });
const { value } = await stream.next();
const cancelled = await tasks.cancelTask(value.task.taskId);
const listed = await tasks.listTasks();
console.log(JSON.stringify({
  count, ask,
  cancelled: cancelled.status,
  listed: listed.tasks.map((task) => task.status).sort(),
}));
process.exit(0);
