// The payments application once more, in another language: the mesh makes no difference between them.
//
// node payments.mjs PORT
import { createServer } from "node:http";

createServer((request, response) => {
  // What the sidecar says of the caller: it drops whatever the client itself wrote there.
  const caller = /URI=([^;,]+)/.exec(request.headers["x-forwarded-client-cert"] ?? "");
  const body = JSON.stringify({
    charge: request.url.split("/").pop(),
    amount: "12.50",
    card: "4111111111111111",
    answered_by: `payments in Node ${process.versions.node}`,
    caller: caller ? caller[1] : "nobody with a certificate",
  });
  response.writeHead(200, { "Content-Type": "application/json", "Content-Length": Buffer.byteLength(body) });
  response.end(body);
}).listen(Number(process.argv[2]), "127.0.0.1");
