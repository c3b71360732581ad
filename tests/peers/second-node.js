// Submits a raw signed transaction to hardhat in this process and prints what became of it:
// {"from", "hash", "status", "nonce"}. The sender is given 100 ether and the transaction's nonce first.
// Usage: [CHAIN_ID=31337] node second-node.js RAWTX   (exit status 1 when it is refused or reverted)
"use strict";

const path = require("node:path");
process.chdir(__dirname);
process.env.HARDHAT_CONFIG = path.join(__dirname, "hardhat.config.js");

const { Transaction, toQuantity, parseEther } = require("ethers");

async function main(raw) {
  const { network } = require("hardhat");
  const { from, nonce, hash } = Transaction.from(raw);
  const call = (method, ...params) => network.provider.request({ method, params });

  await call("hardhat_setBalance", from, toQuantity(parseEther("100")));
  if (nonce > 0) await call("hardhat_setNonce", from, toQuantity(nonce));
  const accepted = await call("eth_sendRawTransaction", raw);
  if (accepted !== hash) throw new Error(`the node computed hash ${accepted}, not ${hash}`);
  const { status } = await call("eth_getTransactionReceipt", hash);
  console.log(JSON.stringify({ from, hash, status, nonce }));
  if (status !== "0x1") process.exitCode = 1;
}

if (!process.argv[2]) {
  console.error("usage: node second-node.js RAWTX");
  process.exit(2);
}
main(process.argv[2]).catch((error) => {
  console.error(`refused: ${error.message}`);
  process.exitCode = 1;
});
