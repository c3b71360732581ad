// One HTTPS GET with a client certificate; prints the body and fails unless the status is 200.
// Usage: node get.js URL CA CERTIFICATE KEY   (the last three are PEM files)
"use strict";

const fs = require("node:fs");
const https = require("node:https");

const [url, ca, cert, key] = process.argv.slice(2);
const options = { ca: fs.readFileSync(ca), cert: fs.readFileSync(cert), key: fs.readFileSync(key), timeout: 5000 };

https
  .get(url, options, (answer) => {
    answer.pipe(process.stdout);
    if (answer.statusCode !== 200) process.exitCode = 1;
  })
  .on("timeout", () => process.exit(1))
  .on("error", (error) => {
    console.error(error.message);
    process.exitCode = 1;
  });
