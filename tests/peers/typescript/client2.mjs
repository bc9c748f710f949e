// The official client 2.x for TypeScript; MODE is `legacy` (its default) or `auto` (2026-07-28).
import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
import { killed } from './killed.mjs';
import { report, target, versionMode } from './report.mjs';

const options = { versionNegotiation: { mode: versionMode } };
const client = new Client({ name: 'client2', version: '1' }, options);
const transport = new StreamableHTTPClientTransport(target);
await client.connect(transport);
const story = process.env.STORY === 'killed' ? killed : report;
await story(
  (params, callOptions) => client.callTool(params, callOptions),
  () => transport.protocolVersion,
);
