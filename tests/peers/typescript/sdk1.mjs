// The official SDK 1.x for TypeScript. It speaks the handshake eras only.
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { killed } from './killed.mjs';
import { report, target } from './report.mjs';

const client = new Client({ name: 'sdk1', version: '1' });
const transport = new StreamableHTTPClientTransport(target);
await client.connect(transport);
const story = process.env.STORY === 'killed' ? killed : report;
await story(
  (params, options) => client.callTool(params, undefined, options),
  () => transport.protocolVersion,
);
