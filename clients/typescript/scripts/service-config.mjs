// Write src/service-config.ts from docs/service-config.json, which is made from the protos.
import { readFileSync, writeFileSync } from "node:fs";

const config = JSON.parse(readFileSync(new URL("../../../docs/service-config.json", import.meta.url), "utf8"));
const text = `// Deadlines and retries of every method. Written by scripts/service-config.mjs from docs/service-config.json; never edited.
import type { ServiceConfig } from "./policy.js";

export const serviceConfig: ServiceConfig = ${JSON.stringify(config, null, 2)};
`;
const target = process.argv[2] ?? new URL("../src/service-config.ts", import.meta.url);
writeFileSync(target, text);
