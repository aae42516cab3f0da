// Clients of Node for tests.conformance.grpc_node: `node grpc_node.js PACKAGES KIND PORT [PORT OF A SERVER TO START]`. Messages are plain octets.
// Says "ok NAME" or "not ok NAME: WHY" for each case. KIND: grpc-js (client of the server in Python), grpc-js-server, grpc-web.
"use strict";
const path = require("path");
const [packages, kind, port] = process.argv.slice(2);
const load = (name) => require(path.join(packages, "node_modules", name));
const same = (buffer) => Buffer.from(buffer);
const assert = require("assert");

async function run(cases) {
  for (const [name, test] of Object.entries(cases)) {
    let timer;
    const late = new Promise((_, reject) => { timer = setTimeout(() => reject(new Error("took too long")), 60000); });
    try { await Promise.race([test(), late]); console.log(`ok ${name}`); }
    catch (error) { console.log(`not ok ${name}: ${error.stack || error}`.replace(/\n/g, " | ")); }
    clearTimeout(timer);
  }
  process.exit(0);
}

function method(name, requestStream, responseStream) {
  return { path: `/test.Calls/${name}`, requestStream, responseStream,
    requestSerialize: same, requestDeserialize: same, responseSerialize: same, responseDeserialize: same };
}
const METHODS = {
  Unary: method("Unary", false, false), Fail: method("Fail", false, false), Wait: method("Wait", false, true), Down: method("Down", false, true),
  Broken: method("Broken", false, true), Up: method("Up", true, false), Both: method("Both", true, true),
};
const collect = (stream) => new Promise((resolve, reject) => {
  const found = [];
  stream.on("data", (each) => found.push(each)).on("error", (error) => { error.found = found; reject(error); }).on("end", () => resolve(found));
});

function grpcJS() {
  const grpc = load("@grpc/grpc-js");
  const limits = { "grpc.max_receive_message_length": -1, "grpc.max_send_message_length": -1 };
  const client = new (grpc.makeGenericClientConstructor(METHODS, "Calls"))(`127.0.0.1:${port}`, grpc.credentials.createInsecure(), limits);
  const unary = (name, message, metadata) => new Promise((resolve, reject) => {
    const seen = {};
    const call = client[name](message, metadata || new grpc.Metadata(), { deadline: Date.now() + 30000 }, (error, answer) => (error ? reject(error) : resolve({ answer, call, seen })));
    call.on("metadata", (each) => { seen.head = each; }).on("status", (each) => { seen.status = each; });
  });
  return run({
    unary: async () => assert.equal((await unary("Unary", Buffer.from("abc"))).answer.toString(), "cba"),
    metadata: async () => {
      const metadata = new grpc.Metadata();
      metadata.set("x-echo", "a, b"); metadata.set("x-echo-bin", Buffer.from([0, 1, 254, 255]));
      const { seen } = await unary("Unary", Buffer.from("abc"), metadata);
      await new Promise(setImmediate);
      assert.deepEqual(seen.head.get("x-echo"), ["a, b"]); assert.deepEqual([...seen.status.metadata.get("x-echo-bin")[0]], [0, 1, 254, 255]);
    },
    large_messages: async () => assert.equal((await unary("Unary", Buffer.alloc(8 << 20, "x"))).answer.length, 8 << 20),
    server_streaming: async () => assert.equal((await collect(client.Down(Buffer.from("3000 2000")))).length, 3000),
    client_streaming: () => new Promise((resolve, reject) => {
      const call = client.Up((error, answer) => (error ? reject(error) : resolve(assert.equal(answer.toString(), "2000000"))));
      for (let each = 0; each < 2000; each++) call.write(Buffer.alloc(1000));
      call.end();
    }),
    bidirectional_streaming: () => new Promise((resolve, reject) => {
      const call = client.Both(); let turn = 0;
      call.on("data", (each) => { assert.equal(each.toString(), `${turn}!`); turn++; if (turn < 300) call.write(Buffer.from(`${turn}`)); else call.end(); });
      call.on("error", reject).on("end", resolve);
      call.write(Buffer.from("0"));
    }),
    statuses: async () => {
      for (let code = 1; code <= 16; code++) await assert.rejects(unary("Fail", Buffer.from(`${code}`)), (error) => error.code === code && error.details === "no: 100% – \u2603");
    },
    status_behind_messages: () => assert.rejects(collect(client.Broken(Buffer.from("x"))), (error) => error.code === 15 && error.found.length === 2),
    deadline: () => assert.rejects(collect(client.Wait(Buffer.from("x"), new grpc.Metadata(), { deadline: Date.now() + 300 })), (error) => error.code === 4),
    cancellation: () => assert.rejects(new Promise((resolve, reject) => {
      const call = client.Wait(Buffer.from("x")); call.on("data", () => call.cancel()).on("error", reject).on("end", resolve);
    }), (error) => error.code === 1),
    many_streams: async () => assert.equal((await Promise.all(Array.from({ length: 1500 }, (_, each) => unary("Unary", Buffer.from(`${each}`))))).length, 1500),
  });
}

function grpcJSServer() {
  const grpc = load("@grpc/grpc-js");
  const server = new grpc.Server({ "grpc.max_receive_message_length": -1, "grpc.max_send_message_length": -1 });
  server.addService(METHODS, {
    Unary: (call, done) => {
      const trailers = new grpc.Metadata(), head = new grpc.Metadata();
      for (const each of call.metadata.get("x-echo")) head.set("x-echo", each);
      for (const each of call.metadata.get("x-echo-bin")) trailers.set("x-echo-bin", each);
      call.sendMetadata(head); done(null, Buffer.from(call.request).reverse(), trailers);
    },
    Fail: (call, done) => done({ code: Number(call.request.toString()), details: "no: 100% – \u2603" }),
    Wait: (call) => { call.write(call.request); call.on("cancelled", () => console.log("cancelled")); },
    Down: async (call) => {
      const [count, size] = call.request.toString().split(" ").map(Number);
      for (let each = 0; each < count; each++) if (!call.write(Buffer.from(`${each}`.padStart(8, "0").padEnd(size, "x")))) await new Promise((resolve) => call.once("drain", resolve));
      call.end();
    },
    Broken: (call) => { call.write(Buffer.from("one")); call.write(Buffer.from("two")); call.emit("error", { code: 15, details: "lost" }); },
    Up: (call, done) => { let sum = 0; call.on("data", (each) => { sum += each.length; }).on("end", () => done(null, Buffer.from(`${sum}`))); },
    Both: (call) => { call.on("data", (each) => call.write(Buffer.concat([each, Buffer.from("!")]))).on("end", () => call.end()); },
  });
  server.bindAsync("127.0.0.1:0", grpc.ServerCredentials.createInsecure(), (error, bound) => console.log(`port ${bound}`));
}

function grpcWeb() {
  global.XMLHttpRequest = load("xhr2");
  const web = load("grpc-web");
  const as = (name, type) => new web.MethodDescriptor(`/test.Calls/${name}`, type, Object, Object, (each) => Uint8Array.from(each), (octets) => Buffer.from(octets));
  const cases = {};
  // What this client calls text is read while it comes; binary is for unary calls.
  for (const format of ["binary", "text"]) {
    const client = new web.GrpcWebClientBase({ format });
    const call = (name, message, metadata = {}) => new Promise((resolve, reject) => {
      client.rpcCall(`http://127.0.0.1:${port}/test.Calls/${name}`, message, metadata, as(name, "unary"), (error, answer) => (error ? reject(error) : resolve(answer)));
    });
    cases[`unary, ${format}`] = async () => {
      for (const size of [1, 2, 3, 4, 1000, 70000]) assert.ok((await call("Unary", Buffer.alloc(size, "ab"))).equals(Buffer.alloc(size, "ab").reverse()));
    };
    cases[`statuses, ${format}`] = async () => {
      for (let code = 1; code <= 16; code++) await assert.rejects(call("Fail", Buffer.from(`${code}`)), (error) => error.code === code && error.message === "no: 100% – \u2603");
    };
    cases[`unknown method, ${format}`] = () => assert.rejects(call("Nothing", Buffer.from("x")), (error) => error.code === 12);
  }
  const client = new web.GrpcWebClientBase({ format: "text" });
  const stream = (name, message) => client.serverStreaming(`http://127.0.0.1:${port}/test.Calls/${name}`, message, {}, as(name, "server_streaming"));
  cases["server streaming, text"] = async () => {
    const found = await collect(stream("Down", Buffer.from("300 500")));
    assert.deepEqual(found.map((each) => Number(each.subarray(0, 8).toString())), Array.from({ length: 300 }, (_, each) => each));
  };
  cases["status behind messages, text"] = () => assert.rejects(collect(stream("Broken", Buffer.from("x"))), (error) => error.code === 15);
  return run(cases);
}

({ "grpc-js": grpcJS, "grpc-js-server": grpcJSServer, "grpc-web": grpcWeb })[kind]();
