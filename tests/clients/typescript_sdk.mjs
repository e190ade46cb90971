// The core of the tools through the official TypeScript clients: the v1 SDK, its v2 client as it comes (initialize) and as
// it negotiates (2026-07-28), each over stdio and over HTTP. One line per check; exits with 1 when one failed.
//
// Environment: FORKPY_BIN, FORKPY_NODE_DIR (the directory with node_modules), FORKPY_WORKSPACE (an empty directory),
// FORKPY_URL (a running forkpy of another workspace), FORKPY_SERVER_ENV (JSON: environment for a server over stdio).
import assert from "node:assert/strict";
import { closeSync, mkdirSync, openSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const { FORKPY_BIN, FORKPY_NODE_DIR, FORKPY_WORKSPACE, FORKPY_URL } = process.env;
const serverEnv = JSON.parse(process.env.FORKPY_SERVER_ENV ?? "{}");
const require = createRequire(join(FORKPY_NODE_DIR, "package.json"));
const v1 = {
  ...require("@modelcontextprotocol/sdk/client/index.js"),
  ...require("@modelcontextprotocol/sdk/client/streamableHttp.js"),
  ...require("@modelcontextprotocol/sdk/client/stdio.js"),
  ...require("@modelcontextprotocol/sdk/types.js"),
};
const v2 = { ...require("@modelcontextprotocol/client"), ...require("@modelcontextprotocol/client/stdio") };
const info = { name: "forkpy-typescript-test", version: "1.0.0" };
const negotiated = { versionNegotiation: { mode: "auto" } };

const FLAVOURS = {
  "v1": { sdk: v1, legacy: true, client: (options) => new v1.Client(info, options) },
  "v2": { sdk: v2, legacy: true, client: (options) => new v2.Client(info, options) },
  "v2 auto": { sdk: v2, legacy: false, client: (options) => new v2.Client(info, { ...negotiated, ...options }) },
};
const TOOLS = [
  "run_python_code", "list_variables", "restart_kernel", "create_session", "switch_session", "list_sessions",
  "delete_session", "get_kernel_health", "check_kernel_responsiveness", "ping", "get_workspace_info",
];

let failures = 0;
let workspaces = 0;

async function connect(flavour, transport, options = undefined, prepare = () => {}) {
  const { sdk, client } = FLAVOURS[flavour];
  const it = client(options);
  prepare(it);
  if (transport === "http") {
    await it.connect(new sdk.StreamableHTTPClientTransport(new URL(FORKPY_URL)));
    return it;
  }
  const workspace = join(FORKPY_WORKSPACE, String(workspaces++));
  mkdirSync(workspace);
  const stderr = openSync(join(workspace, "..", "server.log"), "a");
  await it.connect(
    new sdk.StdioClientTransport({
      command: FORKPY_BIN,
      args: ["--workspace", workspace, "--transport", "stdio"],
      env: { ...sdk.getDefaultEnvironment(), ...serverEnv },
      stderr,
    }),
  );
  closeSync(stderr);
  return it;
}

// `callTool` of v1 has the result schema between the parameters and the options.
function caller(flavour, client) {
  return (name, args = {}, options = undefined) =>
    FLAVOURS[flavour].sdk === v1
      ? client.callTool({ name, arguments: args }, undefined, options)
      : client.callTool({ name, arguments: args }, options);
}

async function check(title, body) {
  try {
    await body();
    console.log(`ok - ${title}`);
  } catch (error) {
    failures += 1;
    console.log(`not ok - ${title}: ${String(error?.stack ?? error).replaceAll("\n", "\n    ")}`);
  }
}

const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

async function until(look, wanted, what) {
  const deadline = Date.now() + 15_000;
  for (;;) {
    const seen = await look();
    if (wanted(seen)) return seen;
    if (Date.now() > deadline) throw new Error(`waited 15 s for ${what}; last seen: ${JSON.stringify(seen)}`);
    await sleep(50);
  }
}

async function core(flavour, transport) {
  const title = (what) => `${flavour} over ${transport}: ${what}`;
  const { legacy } = FLAVOURS[flavour];
  let client;
  await check(title("connect"), async () => {
    client = await connect(flavour, transport);
    assert.equal(client.getServerVersion().name, "forkpy");
    if (client.getNegotiatedProtocolVersion) {
      assert.equal(client.getNegotiatedProtocolVersion(), legacy ? "2025-11-25" : "2026-07-28");
    }
  });
  if (client === undefined) return;
  const call = caller(flavour, client);
  // A session of its own for each flavour, because the HTTP ones share a server.
  const session_id = `ts-${flavour.replace(" ", "-")}-${transport}`;
  const run = async (code, options) => {
    const result = await call("run_python_code", { code, session_id }, options);
    assert.ok(!result.isError, JSON.stringify(result));
    return result.structuredContent;
  };
  const health = async () => (await call("get_kernel_health", { session_id })).structuredContent;

  await check(title("list tools"), async () => {
    const { tools } = await client.listTools();
    const names = tools.map((tool) => tool.name);
    for (const name of TOOLS) assert.ok(names.includes(name), `${name} is not listed`);
    for (const tool of tools) {
      assert.ok(tool.description && tool.inputSchema && tool.outputSchema && tool.annotations, tool.name);
    }
  });
  await check(title("create a session"), async () => {
    const { structuredContent } = await call("create_session", { session_id });
    assert.equal(structuredContent.status, "created");
  });
  await check(title("run a cell"), async () => {
    const reply = await run("x = 6\nprint('six')\nx * 7");
    assert.equal(reply.status, "ok");
    assert.equal(reply.stdout, "six\n");
    assert.match(JSON.stringify(reply.results), /42/);
    assert.equal(reply.session_id, session_id);
  });
  await check(title("an exception is a result"), async () => {
    const reply = await run("1 / 0");
    assert.equal(reply.status, "error");
    assert.equal(reply.error.type, "ZeroDivisionError");
  });
  await check(title("a picture is a block of its own, and its line says what it is"), async () => {
    const png =
      "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
    const dot = `import base64\nclass Dot:\n def _repr_png_(self): return base64.b64decode('${png}')\n def __repr__(self): return 'Dot'\nDot()`;
    const { content } = await call("run_python_code", { code: dot, session_id });
    assert.deepEqual(content.map((block) => block.type), ["text", "image"]);
    assert.match(content[0].text, /1: Dot, image\/png, 1 x 1 pixels/);
    assert.equal(content[1].data, png);
  });
  await check(title("an unknown tool is refused"), async () => {
    await assert.rejects(async () => {
      const result = await call("no_such_tool");
      if (result.isError) throw new Error(result.content[0].text);
    }, /no_such_tool/);
  });
  await check(title("abort a running cell"), async () => {
    await run("x = 41; steps = []");
    const abort = new AbortController();
    const code = "import time\nsteps.append(1)\ntime.sleep(60)\nsteps.append(2)";
    const cell = call("run_python_code", { code, session_id }, { signal: abort.signal });
    const rejected = assert.rejects(cell);
    await until(health, (seen) => seen.state === "busy", "the cell to run");
    abort.abort(new Error("the user changed their mind"));
    await rejected;
    const asked = Date.now();
    const reply = await run("print(x, steps)");
    assert.equal(reply.stdout, "41 [1]\n");
    assert.equal(reply.state, "kept");
    assert.ok(Date.now() - asked < 10_000);
    await until(health, (seen) => seen.state === "idle", "the session to be idle");
  });
  await check(title("a client time-out interrupts too"), async () => {
    const code = "import time\nsteps.append(3)\ntime.sleep(60)";
    await assert.rejects(call("run_python_code", { code, session_id }, { timeout: 2000 }), /timed out/i);
    assert.equal((await run("print(x, steps)")).stdout, "41 [1, 3]\n");
  });
  await check(title("progress of a silent cell, which keeps a client's time-out away"), async () => {
    const seen = [];
    const options = { onprogress: (progress) => seen.push(progress.progress), timeout: 6000, resetTimeoutOnProgress: true };
    assert.equal((await run("import time\ntime.sleep(8)", options)).status, "ok");
    assert.ok(seen.length > 0, "no progress");
    assert.deepEqual(seen, [...new Set(seen)].sort((a, b) => a - b));
  });
  await check(title("output arrives while the cell runs"), async () => {
    let heard = "";
    const { workspace } = (await call("get_workspace_info")).structuredContent;
    const gate = join(workspace, `go-${session_id}`);
    const onprogress = ({ message }) => {
      heard += message;
      writeFileSync(gate, "");
    };
    const code = `import os, time\nprint('one')\nwhile not os.path.exists('go-${session_id}'): time.sleep(0.01)\nprint('two')`;
    assert.equal((await run(code, { onprogress })).stdout, "one\ntwo\n");
    assert.ok(heard.startsWith("one\n"), heard);
  });
  await check(title("input is answered by the user"), async () => {
    const asked = [];
    const answers = [{ action: "accept", content: { input: "Ada" } }, { action: "decline" }];
    const answer = async ({ params }) => {
      asked.push(params.message);
      return answers.shift();
    };
    const elicitation = FLAVOURS[flavour].sdk === v1 ? v1.ElicitRequestSchema : "elicitation/create";
    const curious = await connect(flavour, transport, { capabilities: { elicitation: { form: {} } } }, (it) =>
      it.setRequestHandler(elicitation, answer),
    );
    const runs = `runs_${session_id.replaceAll("-", "_")}`;
    const code = `${runs} = 1 + globals().get('${runs}', 0)\nname = input('Name: ')\n`
      + `try: input('More: ')\nexcept EOFError as e: print(${runs}, name, e)`;
    try {
      const { structuredContent } = await caller(flavour, curious)("run_python_code", { code });
      assert.match(structuredContent.stdout, /^Name: More: 1 Ada .*declined/);
      assert.deepEqual(asked.map((message) => message.split("\n").at(-1)), ["Name:", "More:"]);
    } finally {
      await curious.close();
    }
  });
  await check(title("health and restart"), async () => {
    const before = await health();
    assert.equal(before.status, "healthy");
    const { structuredContent } = await call("restart_kernel", { session_id });
    assert.equal(structuredContent.restarted, true);
    assert.notEqual((await health()).pid, before.pid);
    process.kill((await health()).pid, "SIGKILL");
    const dead = await until(health, (seen) => seen.status === "dead", "status dead");
    for (const key of ["pid", "memory_usage", "cpu_percent", "num_threads", "uptime"]) assert.equal(dead[key], null, key);
  });
  await check(title("ping"), async () => {
    assert.equal((await call("ping")).structuredContent.status, "pong");
    if (legacy) await client.ping();
  });
  await check(title("delete the session"), async () => {
    assert.equal((await call("delete_session", { session_id })).structuredContent.status, "deleted");
  });
  await check(title("close"), () => client.close());
}

// Clients of one Node process share TCP connections, and those that negotiate keep no cookies and have no session
// header: whatever switch_session answers to them, it must not move anybody else.
async function strangers(flavour) {
  await check(`${flavour} over http: two clients do not move each other's active session`, async () => {
    const [one, two] = [await connect(flavour, "http"), await connect(flavour, "http")];
    const [callOne, callTwo] = [caller(flavour, one), caller(flavour, two)];
    const session_id = `strangers-${flavour.replace(" ", "-")}`;
    await callOne("create_session", { session_id });
    const switched = await callOne("switch_session", { session_id });
    const active = async (call) => (await call("list_sessions")).structuredContent.active_session;
    assert.equal(await active(callTwo), "default");
    if (FLAVOURS[flavour].legacy) {
      assert.equal(await active(callOne), session_id);
    } else if (await active(callOne) !== session_id) {
      // Then the reply must not have claimed it.
      assert.ok(switched.isError, "switch_session claims a switch that the next call does not know of");
      assert.match(switched.content[0].text, /session_id/);
    }
    await callOne("delete_session", { session_id });
    await one.close();
    await two.close();
  });
}

for (const flavour of Object.keys(FLAVOURS)) {
  for (const transport of ["stdio", "http"]) await core(flavour, transport);
  await strangers(flavour);
}
console.log(failures === 0 ? "all checks passed" : `${failures} checks failed`);
process.exitCode = failures === 0 ? 0 : 1;
