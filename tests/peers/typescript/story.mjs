// What a client does once it is connected, by the name in the environment's STORY.
import { killed } from './killed.mjs';
import { mixed } from './mixed.mjs';
import { report } from './report.mjs';

export const story = { killed, mixed }[process.env.STORY] ?? report;
