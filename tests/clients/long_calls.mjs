// A job that takes longer than a client waits, through the official TypeScript clients over `forkpy attach`, each with its own
// default time-out. One JSON object, on the last line.
//
//     long_calls.mjs SECONDS COMMAND ARGUMENT...
//
// Environment: FORKPY_NODE_DIR (the directory with node_modules), FORKPY_SERVER_ENV (JSON: environment for what is started).
import { createRequire } from "node:module";
import { join } from "node:path";

const [seconds, command, ...args] = process.argv.slice(2);
const require = createRequire(join(process.env.FORKPY_NODE_DIR, "package.json"));
const v1 = { ...require("@modelcontextprotocol/sdk/client/index.js"), ...require("@modelcontextprotocol/sdk/client/stdio.js") };
const v2 = { ...require("@modelcontextprotocol/client"), ...require("@modelcontextprotocol/client/stdio") };
const info = { name: "forkpy-typescript-test", version: "1.0.0" };

const CLIENTS = {
  "typescript sdk 1": [v1, (options) => new v1.Client(info, options)],
  "typescript sdk 2": [v2, (options) => new v2.Client(info, options)],
  "typescript sdk 2, stateless": [v2, (options) => new v2.Client(info, { versionNegotiation: { mode: "auto" }, ...options })],
};

async function followed(library) {
  const [sdk, make] = CLIENTS[library];
  const env = { ...sdk.getDefaultEnvironment(), ...JSON.parse(process.env.FORKPY_SERVER_ENV ?? "{}") };
  const client = make();
  await client.connect(new sdk.StdioClientTransport({ command, args, env, stderr: "ignore" }));
  const session_id = library.replaceAll(/[^a-z0-9]/g, "");
  const call = async (name, given = {}) =>
    (await client.callTool({ name, arguments: { ...given, session_id } })).structuredContent;
  try {
    await call("create_session");
    const began = Date.now();
    const code =
      `import time\nruns = globals().get('runs', 0) + 1\nprint('begun', flush=True)\ntime.sleep(${seconds})\nprint('done', runs)`;
    const gaveUp = [];
    const replies = [];
    try {
      replies.push(await call("run_python_code", { code }));
    } catch (error) {
      gaveUp.push(`after ${(Date.now() - began) / 1000} s: ${error}`);
      replies.push(await call("wait_for_cell"));
    }
    while (["running", "queued"].includes(replies.at(-1).status)) replies.push(await call("wait_for_cell"));
    const took = (Date.now() - began) / 1000;
    const count = (await call("run_python_code", { code: "runs" })).results[0];
    const texts = replies.map((reply) => `${reply.status}\n${reply.stdout}`);
    return { texts, count, "gave up": gaveUp, took };
  } finally {
    await client.close();
  }
}

const libraries = Object.keys(CLIENTS);
const done = await Promise.allSettled(libraries.map(followed));
const shown = done.map((one) => one.value ?? { failed: String(one.reason?.stack ?? one.reason) });
console.log(JSON.stringify(Object.fromEntries(libraries.map((library, index) => [library, shown[index]]))));
