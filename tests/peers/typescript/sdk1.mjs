// The official SDK 1.x for TypeScript. It speaks the handshake eras only.
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { CreateMessageRequestSchema, ElicitRequestSchema } from '@modelcontextprotocol/sdk/types.js';
import { answers } from './mixed.mjs';
import { target } from './report.mjs';
import { story } from './story.mjs';

const capabilities = { elicitation: {}, sampling: {} };
const client = new Client({ name: 'sdk1', version: '1' }, { capabilities });
client.setRequestHandler(ElicitRequestSchema, answers.elicit);
client.setRequestHandler(CreateMessageRequestSchema, answers.sample);
const transport = new StreamableHTTPClientTransport(target);
await client.connect(transport);
await story(
  (params, options) => client.callTool(params, undefined, options),
  () => transport.protocolVersion,
);
