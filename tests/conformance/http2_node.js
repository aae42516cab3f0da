// Node's own HTTP/2 client for tests.conformance.http2_clients: `node http2_node.js PORT`. Says "ok NAME" or "not ok NAME: WHY" for each case.
"use strict";
const http2 = require("http2");
const assert = require("assert");
const port = process.argv[2];
const frame = (text) => Buffer.concat([Buffer.from([0x81, 0x80 | text.length, 0, 0, 0, 0]), Buffer.from(text)]);

function connect(options) {
  return new Promise((resolve, reject) => {
    const client = http2.connect(`http://127.0.0.1:${port}`, options);
    client.on("error", reject).on("remoteSettings", () => resolve(client));
  });
}
function ask(client, head, body, trailers) {
  return new Promise((resolve, reject) => {
    const stream = client.request(head, { waitForTrailers: !!trailers, endStream: body === undefined && !trailers });
    const seen = { informational: [], body: "" };
    stream.on("headers", (each) => seen.informational.push(each[":status"])).on("response", (each) => { seen.head = each; }).on("trailers", (each) => { seen.trailers = each; });
    stream.on("wantTrailers", () => stream.sendTrailers(trailers));
    stream.on("data", (each) => { seen.body += each; }).on("end", () => resolve(seen)).on("error", reject);
    if (body !== undefined || trailers) stream.end(body);
  });
}
const cases = {
  "websocket over extended CONNECT (RFC 8441)": async () => {
    const client = await connect();
    assert.ok(client.remoteSettings.enableConnectProtocol);
    const stream = client.request({ ":method": "CONNECT", ":protocol": "websocket", ":path": "/ws", ":authority": "localhost", "sec-websocket-version": "13" });
    const head = await new Promise((resolve, reject) => stream.on("response", resolve).on("error", reject));
    assert.equal(head[":status"], 200); assert.equal(head["sec-websocket-accept"], undefined);
    const octets = frame("hello");
    stream.write(octets);
    const answer = await new Promise((resolve) => stream.once("data", resolve));
    assert.ok(answer.equals(octets));
    stream.end();
    await new Promise((resolve) => stream.on("close", resolve));
    client.close();
  },
  "an upgrade that is not allowed": async () => {
    const client = await connect();
    const stream = client.request({ ":method": "CONNECT", ":protocol": "smtp", ":path": "/", ":authority": "localhost" });
    assert.equal((await new Promise((resolve) => stream.on("response", resolve)))[":status"], 403);
    client.close();
  },
  "a body of five megabytes both ways": async () => {
    const client = await connect();
    const seen = await ask(client, { ":method": "POST", ":path": "/echo" }, "x".repeat(5 << 20));
    assert.equal(seen.body.length, 5 << 20);
    client.close();
  },
  "small windows and frames": async () => {
    const client = await connect({ settings: { initialWindowSize: 1000, maxFrameSize: 16384, headerTableSize: 0, maxHeaderListSize: 8000 } });
    const seen = await ask(client, { ":method": "POST", ":path": "/echo" }, "y".repeat(200000));
    assert.equal(seen.body.length, 200000);
    client.close();
  },
  "trailers of a request": async () => {
    const client = await connect();
    assert.equal((await ask(client, { ":method": "POST", ":path": "/" }, "abc", { "x-sum": "1" })).head[":status"], 200);
    client.close();
  },
  "many requests at once": async () => {
    const client = await connect();
    const all = await Promise.all(Array.from({ length: 200 }, () => ask(client, { ":path": "/" })));
    assert.ok(all.every((each) => each.head[":status"] === 200));
    client.close();
  },
  "ping and settings": async () => {
    const client = await connect();
    await new Promise((resolve, reject) => client.ping((error) => (error ? reject(error) : resolve())));
    await new Promise((resolve, reject) => client.settings({ initialWindowSize: 70000 }, (error) => (error ? reject(error) : resolve())));
    assert.equal((await ask(client, { ":path": "/" })).head[":status"], 200);
    client.close();
  },
};
(async () => {
  for (const [name, test] of Object.entries(cases)) {
    let timer;
    const late = new Promise((_, reject) => { timer = setTimeout(() => reject(new Error("took too long")), 30000); });
    try { await Promise.race([test(), late]); console.log(`ok ${name}`); }
    catch (error) { console.log(`not ok ${name}: ${error.stack || error}`.replace(/\n/g, " | ")); }
    clearTimeout(timer);
  }
  process.exit(0);
})();
