// The official client 2.x for TypeScript; MODE is `legacy` (its default) or `auto` (2026-07-28).
import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
import { answers } from './mixed.mjs';
import { target, versionMode } from './report.mjs';
import { story } from './story.mjs';

const capabilities = { elicitation: {}, sampling: {} };
const options = { capabilities, versionNegotiation: { mode: versionMode } };
const client = new Client({ name: 'client2', version: '1' }, options);
client.setRequestHandler('elicitation/create', answers.elicit);
client.setRequestHandler('sampling/createMessage', answers.sample);
const transport = new StreamableHTTPClientTransport(target);
await client.connect(transport);
await story(
  (params, callOptions) => client.callTool(params, callOptions),
  () => transport.protocolVersion,
);
