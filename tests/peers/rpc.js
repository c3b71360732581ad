// One JSON-RPC call; prints the result (a string bare, anything else as JSON).
// Usage: node rpc.js URL METHOD [PARAMS as a JSON array]
"use strict";

const [url, method, params = "[]"] = process.argv.slice(2);

async function main() {
  const body = JSON.stringify({ jsonrpc: "2.0", id: 1, method, params: JSON.parse(params) });
  const answer = await fetch(url, { method: "POST", headers: { "content-type": "application/json" }, body });
  const { result, error } = await answer.json();
  if (error) throw new Error(`${method}: ${error.code} ${error.message}`);
  console.log(typeof result === "string" ? result : JSON.stringify(result));
}

main().catch((error) => {
  console.error(error.message);
  process.exitCode = 1;
});
