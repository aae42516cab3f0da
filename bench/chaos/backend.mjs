// An application to be maltreated, on Node: as backend.py, whose words it obeys. `node backend.mjs PORT MODE_FILE DELIVERIES_FILE NAME`.
import { appendFileSync, readFileSync } from "node:fs";
import { createServer } from "node:http";

const [port, modeFile, deliveriesFile, name] = process.argv.slice(2);
let mode = "ok";
let argument = 0;
let isListening = false;

function answer(request, response) {
  if (mode === "reset") {
    request.socket.resetAndDestroy();
    return;
  }
  const [status, body] = mode === "503" ? [503, "not now"] : [200, `hello from ${name}`];
  const send = () => {
    response.writeHead(status, { "X-Backend": name, "Content-Length": Buffer.byteLength(body) });
    response.end(body);
  };
  if (mode === "slow") setTimeout(send, argument);
  else send();
}

const server = createServer((request, response) => {
  request.resume();
  request.on("end", () => {
    if (request.method === "POST") appendFileSync(deliveriesFile, `${request.headers["x-id"]}\n`);
    answer(request, response);
  });
});

function look() {
  const words = readFileSync(modeFile, "utf8").split(/\s+/);
  mode = words[0] || "ok";
  argument = Number(words[1] || 0);
  server.keepAliveTimeout = mode === "idle" ? argument : 60000;
  if (mode === "refuse" && isListening) {
    isListening = false;
    server.close();
    server.closeAllConnections();
  } else if (mode !== "refuse" && !isListening) {
    isListening = true;
    server.listen(Number(port), "127.0.0.1");
  }
}

look();
setInterval(look, 20);
