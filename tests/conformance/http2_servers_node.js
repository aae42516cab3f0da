// Servers that refuse, each in its own way: `node http2_servers_node.js WAY [DIRECTORY]`. Prints its port, then one line of what it saw when it is told to end.
// With DIRECTORY (key.pem, cert.pem, ca.pem) over TLS, HTTP/1.1 and HTTP/2 by ALPN; without, HTTP/2 in cleartext.
'use strict';
const fs = require('fs');
const http2 = require('http2');

const [way, directory] = process.argv.slice(2);
const {NGHTTP2_HTTP_1_1_REQUIRED, NGHTTP2_REFUSED_STREAM} = http2.constants;
const settings = way === 'no streams' ? {maxConcurrentStreams: 0} : {};
const read = (name) => fs.readFileSync(`${directory}/${name}`);
const server = directory
  ? http2.createSecureServer({key: read('key.pem'), cert: read('cert.pem'), ca: read('ca.pem'), requestCert: true, allowHTTP1: true, settings})
  : http2.createServer({settings});
const seen = {'HTTP/1.1': 0, 'HTTP/2': 0, refused: 0};
let dice = 7; // drawn in the same way each time (Lehmer)

server.on('sessionError', () => {});
server.on('stream', (stream) => {
  stream.on('error', () => {});
  dice = (dice * 48271) % 2147483647;
  if (way === 'HTTP/1.1 only') {
    seen.refused += 1;
    stream.close(NGHTTP2_HTTP_1_1_REQUIRED);
  } else if (way === 'every third' && dice % 3 === 0) {
    seen.refused += 1;
    stream.close(NGHTTP2_REFUSED_STREAM);
  } else {
    seen['HTTP/2'] += 1;
    let size = 0;
    stream.on('data', (chunk) => { size += chunk.length; });
    stream.on('end', () => { stream.respond({':status': 200}); stream.end(String(size)); });
  }
});
server.on('request', (request, response) => {
  if (request.httpVersionMajor > 1) return;
  seen['HTTP/1.1'] += 1;
  let size = 0;
  request.on('data', (chunk) => { size += chunk.length; });
  request.on('end', () => response.end(String(size)));
});
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
process.on('SIGTERM', () => { console.log(JSON.stringify(seen)); process.exit(0); });
