// Prints the sender of a raw signed transaction as ethers.js recovers it.
// Usage: node recover.js RAWTX
"use strict";

const { Transaction } = require("ethers");

const raw = process.argv[2];
if (!raw) {
  console.error("usage: node recover.js RAWTX");
  process.exit(2);
}
console.log(Transaction.from(raw).from);
