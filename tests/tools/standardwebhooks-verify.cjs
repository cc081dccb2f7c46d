// Run by standardwebhooks-verify-node, which says what this reads and returns.
"use strict";
const { readFileSync } = require("node:fs");
const { Webhook } = require("standardwebhooks");

let delivery;
try {
  delivery = JSON.parse(readFileSync(0, "utf8"));
  for (const [name, type] of [["secret", "string"], ["headers", "object"], ["body", "string"]]) {
    if (typeof delivery[name] !== type) throw new Error(`"${name}" must be of type ${type}`);
  }
} catch (error) {
  console.error(`input: ${error.message}`);
  process.exit(2);
}
try {
  new Webhook(delivery.secret).verify(delivery.body, delivery.headers);
} catch (error) {
  console.error(`not verified: ${error.message}`);
  process.exit(1);
}
