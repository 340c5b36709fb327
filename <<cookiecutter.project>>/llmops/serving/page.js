"use strict";
/* What both pages share: elements, and the server's own description of itself. */
const make = (tag, attributes = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== undefined && child !== ""));
  return element;
};
const by = (id) => document.getElementById(id);
const pretty = (value) => (typeof value === "string" ? value : JSON.stringify(value, null, 2));
const get = async (path) => (await fetch(path, { headers: { accept: "application/json" } })).json();
const resolve = (api, schema = {}) => (schema.$ref ? api.components.schemas[schema.$ref.split("/").pop()] : schema);
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const curl = (method, path, body) => {
  const url = new URL(path.replace(/^\//, ""), document.baseURI).href;
  if (body === undefined) return `curl ${quoted(url)}`;
  return `curl -X ${method} ${quoted(url)} -H 'content-type: application/json' -d ${quoted(JSON.stringify(body))}`;
};
const introduce = async () => {
  const [api, facts] = await Promise.all([get("openapi.json"), get("version")]);
  document.title = `${api.info.title}: ${document.title}`;
  by("name").textContent = api.info.title;
  const commit = facts.commit ? `, commit ${facts.commit.slice(0, 10)}` : "";
  by("facts").textContent = `variant ${facts.variant}, deployment ${facts.deployment}, version ${facts.version}${commit}`;
  by("replay").hidden = facts.llm !== "replay";
  return api;
};
